"""Enter a race: train as well as possible within a fixed budget, and be scored once on held-out text.

Without a name, the races are listed; without --data, the rules of a race are printed. The clock begins before the text
is prepared and ends with the last training step, compiling included. As many steps are trained as fit into it. The
held-out text is scored once, after the last step.

Examples:
  fabella race
  fabella race cpu-20min
  fabella race cpu-20min --data train.txt --validation valid.txt --seed 2
  fabella race cpu-20min --data train.txt --validation valid.txt optimizer.lr=2e-3 --tuned-on "dev.txt"
  fabella race my-race.yaml --data train.txt --validation valid.txt --recipe my-recipe.yaml
  fabella race cpu-20min --records runs

The run directory gets race.json, the receipt. --records prints the table of all receipts in directories.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, Seed, writable
from fabella.cli.text_options import split_words
from fabella.errors import UsageError
from fabella.evaluation.races.entry import enter
from fabella.evaluation.races.entry_rules import EntryRequest
from fabella.evaluation.races.race import Race, load_race, race_names
from fabella.evaluation.races.race_receipt import RECEIPT, RaceReceipt
from fabella.evaluation.races.records import RaceRecord, read_receipts, records
from fabella.report.plots import plot_loss
from fabella.storage import align_columns, format_duration
from fabella.tracking.terminal_escape import escape


def command(
    name: Annotated[str, typer.Argument(help="Race, or a YAML file of one; by default all are listed.")] = "",
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings that differ, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="Text to train on: files, or a source as for train.")] = "",
    validation: Annotated[str, typer.Option(help="Held-out text, scored once, at the end.")] = "",
    recipe: Annotated[str, typer.Option(help="Preset or YAML file to enter; by default the recipe of the race.")] = "",
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; by default runs/RACE-SEED.", callback=writable)
    ] = None,
    device: Device = "auto",
    steps: Annotated[int, typer.Option(help="Steps of an earlier entry, to repeat it; 0: as many as fit.", min=0)] = 0,
    tuned_on: Annotated[str, typer.Option(help="Text that changed settings were chosen on, for the receipt.")] = "",
    prepared: Annotated[
        Path, typer.Option(help="Directory in which the text is prepared, in one with the name of the run.")
    ] = Path("prepared"),
    of: Annotated[
        list[Path] | None, typer.Option("--records", help="Print the table of the receipts in this directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    if not name:
        _print_races(as_json=as_json)
        return
    race = load_race(name)
    words, settings = split_words(overrides)
    if of:
        _print_records(race, records(read_receipts([*of, *map(Path, words)], race)), as_json=as_json)
        return
    if words:
        raise UsageError(f"'{words[0]}' is not a setting.", hint="Give a text with --data TEXT.")
    if not any((data, validation, settings, recipe, seed is not None, out, steps, tuned_on)):
        _print_rules(race, name, as_json=as_json)
        return
    entry = EntryRequest(
        data=data, validation=validation, recipe=recipe, overrides=settings, seed=seed, out=out, prepared=prepared,
        device=device, steps=steps, tuned_on=tuned_on,
    )  # fmt: skip
    receipt = enter(race, entry, print_status)
    plot_loss(Path(receipt.run))
    if as_json:
        print_json(receipt.as_json())
    else:
        print_result("\n".join(lines(race, receipt)))


# ---------------------------------------------------------------- races and rules


def _print_races(*, as_json: bool) -> None:
    races = [load_race(name) for name in race_names()]
    if as_json:
        print_json({"races": [race.model_dump(mode="json") for race in races]})
        return
    rows = [(race.name, f"{race.minutes:g} min", _machine(race), _targets(race), race.description) for race in races]
    print_result("\n".join(align_columns([("race", "clock", "machine", "good / goal", ""), *rows], left=(0, 2, 4))))


def _print_rules(race: Race, name: str, *, as_json: bool) -> None:
    if as_json:
        print_json(race.model_dump(mode="json"))
        return
    print_result("\n".join(rules(race, name)))


def rules(race: Race, name: str) -> list[str]:
    """Return the rules of a race, its targets, and the command that enters it."""
    scored = f"{race.rule}, bits per byte of the whole held-out text, once, after the last step"
    rows = [
        ("clock", f"{race.minutes:g} minutes: preparing the text, compiling and training, until the last step"),
        ("machine", _machine(race)),
        ("score", scored),
        ("targets", f"good {race.targets.good:g}, goal {race.targets.goal:g} bits per byte"),
        ("recipe", f"{race.recipe.name}; tuned on: {race.tuned_on}"),
    ]
    if race.artifact:
        limit = f"{race.artifact.max_bytes:,} bytes at most, {race.artifact.format}, {race.artifact.precision}"
        rows.insert(3, ("artifact", f"one file with weights and tokenizer, {limit}; it alone is scored"))
    return [
        f"{race.name}: {race.description}", "", *align_columns(rows, left=(0, 1)), "",
        f"Enter with:  fabella race {name} --data TRAIN --validation HELD_OUT",
    ]  # fmt: skip


def _machine(race: Race) -> str:
    return f"{race.threads} CPU threads" if race.threads else race.device.upper()


def _targets(race: Race) -> str:
    return f"{race.targets.good:g} / {race.targets.goal:g}"


# ---------------------------------------------------------------- entries


def lines(race: Race, receipt: RaceReceipt) -> list[str]:
    """Return the receipt of an entry as text."""
    score = receipt.score
    bits = f"{score['bits_per_byte']:.4f} bits per byte ({score['rule']}) on {receipt.held_out_bytes:,} held-out bytes"
    parts = ", ".join(f"{part} {format_duration(seconds)}" for part, seconds in receipt.clock.items())
    kept = "in time" if receipt.in_time else f"over the {race.minutes:g} minutes: no valid entry"
    average = ", average of the weights" if receipt.scored_weights == "average" else ""
    compute = f"{receipt.steps:,} steps, {receipt.tokens:,} tokens, {receipt.epochs:.2f} epochs"
    rows = [
        ("score", bits),
        ("targets", f"good {race.targets.good:g}, goal {race.targets.goal:g}"),
        ("clock", f"{format_duration(receipt.clock_seconds)}, {kept} ({parts})"),
        ("model", f"{receipt.recipe}, {receipt.parameters:,} parameters{average}"),
        ("compute", compute),
        ("hardware", receipt.machine),
        ("tuned on", escape(receipt.tuned_on)),
        ("weights", f"sha256 {receipt.weights_sha256}"),
    ]
    if receipt.artifact:
        rows.insert(3, ("artifact", _artifact(receipt.artifact)))
    changes = [("setting", "recipe", "here"), *((key, *values) for key, values in receipt.recipe_changes.items())]
    table = ["", *align_columns(changes, left=(0, 1, 2))] if len(changes) > 1 else []
    return [*align_columns(rows, left=(0, 1)), *table, "", f"Receipt: {receipt.run}/{RECEIPT}"]


def _artifact(artifact: Any) -> str:
    size, limit = artifact["bytes"], artifact["max_bytes"]
    kept = f"at most {limit:,}" if size <= limit else f"more than {limit:,}: no valid entry"
    return f"{artifact['file']}, {size:,} bytes, {kept}"


def _print_records(race: Race, found: list[RaceRecord], *, as_json: bool) -> None:
    if as_json:
        print_json({"race": race.name, "records": [record.as_json() for record in found]})
    else:
        print_result("\n".join(record_lines(race, found)))


def record_lines(race: Race, found: list[RaceRecord]) -> list[str]:
    """Return a table of records, one for each held-out text."""
    if not found:
        return [f"No receipt of the race {race.name} there."]
    text = [f"{race.name}: good {race.targets.good:g}, goal {race.targets.goal:g} bits per byte ({race.rule})"]
    head = ("recipe", "seeds", "bits per byte", "95 %", "clock", "parameters", "tokens", "machine", "code", "")
    for held_out in dict.fromkeys(record.held_out for record in found):
        rows = [_row(record) for record in found if record.held_out == held_out]
        size = next(record.held_out_bytes for record in found if record.held_out == held_out)
        text += ["", f"Held-out text of {size:,} bytes, sha256 {held_out[:12]}:"]
        text += align_columns([head, *rows], left=(0, 7, 8, 9))
    return text


def _row(record: RaceRecord) -> tuple[str, ...]:
    bits = record.bits_per_byte
    bounds = "-" if math.isnan(bits.low) else f"{bits.low:.4f} to {bits.high:.4f}"
    recipe = " ".join([record.recipe, *(f"{key}={value}" for key, value in record.changes.items())])
    return (
        escape(recipe), f"{len(record.seeds):,}", f"{bits.value:.4f}", bounds, format_duration(record.clock_seconds),
        f"{record.parameters:,}", f"{record.tokens:,}", f"{record.processor}, {record.device}",
        ", ".join(record.versions),
        record.problem,
    )  # fmt: skip
