"""Compare finished runs on the same held-out documents: differences with intervals, and what would decide.

Examples:
  fabella compare runs/first runs/second
  fabella compare runs/first runs/second --rule line --length 256     in sequences of 256 tokens
  fabella compare runs/first runs/second --data other-stories.txt     on another text
  fabella compare runs/small model.gguf runs/large --json             also models that fabella import reads

Runs that differ only in their seed are the seeds of one variant.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.run_options import AsJson, Device, RunEngine, WeightsOption
from fabella.cli.text_options import ReadingOptions, expand_options
from fabella.errors import UsageError
from fabella.evaluation.comparison.compare import (
    CompareConfig,
    RunComparison,
    VariantPair,
    compare_runs,
    text_or_dataset,
)
from fabella.evaluation.comparison.paired import RESAMPLES
from fabella.evaluation.confidence import ConfidenceInterval
from fabella.runs.checkpoint import of_average
from fabella.storage import align_columns
from fabella.tracking.terminal_escape import escape

MAX_PAIRS = 15
"""Pairs of runs that are printed; --json has all."""


@expand_options
def command(
    reading: ReadingOptions,
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or models that fabella import reads.")],
    data: Annotated[
        str,
        typer.Option(help="Text, or directory of a prepared dataset; by default the held-out documents of the runs."),
    ] = "",
    rule: Annotated[
        Literal["line", "story"],
        typer.Option(help="Scoring rule: line (packed sequences) or story (each document from its start)."),
    ] = "story",
    length: Annotated[
        int,
        typer.Option(min=0, help="Tokens of a sequence and of the context; by default the shortest of the trainings."),
    ] = 0,
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint: best, latest, or a step number; by default the last one of finished runs.")
    ] = "",
    weights: WeightsOption = "trained",
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of the bootstrap.")] = RESAMPLES,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 1,
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    if not data and reading != ReadingOptions():
        raise UsageError("Options for reading are only for --data.", hint="Leave them out, or give --data.")
    config = CompareConfig(
        rule=rule, length=length, data=text_or_dataset(data, reading.source) if data else None,
        decode_errors=reading.policy(), max_bad_lines=reading.max_bad_lines, checkpoint=checkpoint, weights=weights,
        device=device, engine=engine, resamples=resamples, seed=seed,
    )  # fmt: skip
    print_report(compare_runs(runs, config, print_status), lines, as_json=as_json)


def lines(result: RunComparison) -> list[str]:
    """Format the result as text."""
    head = ["run", "seed", "step", "parameters", "bits per byte", "95 % over documents"]
    scores = [
        [escape(run.name), str(run.seed), f"{run.step:,}", f"{run.parameters:,}", *_cells(run.bits_per_byte)]
        for run in result.runs
    ]
    text = [
        f"Rule {result.rule} on {escape(result.text)}: {result.documents:,} documents, {result.bytes:,} bytes"
        f"{of_average(result.weights)}. Lower is better.",
        "",
        *align_columns([head, *scores]),
        "",
        *_pairs(result),
    ]
    if len(result.variants) < len(result.runs):
        text += ["", *_variants(result)]
    if len(result.variants) > 1:
        text += ["", *(sentence for pair in result.variant_pairs for sentence in _verdict(pair))]
    return text


def _pairs(result: RunComparison) -> list[str]:
    """Return the differences of runs: of equal seed only, if there are many."""
    shown = list(result.pairs)
    if len(shown) > MAX_PAIRS:
        seeds = {run.name: (run.seed, run.variant) for run in result.runs}
        equal = [pair for pair in shown if seeds[pair.first][0] == seeds[pair.second][0]]
        shown = equal[:MAX_PAIRS]
    rows = [[f"{escape(pair.first)} minus {escape(pair.second)}", *_cells(pair.difference)] for pair in shown]
    hidden = len(result.pairs) - len(shown)
    more = [f"… and {hidden:,} more pairs (--json has all)"] if hidden else []
    return [*align_columns([["difference of runs", "bits per byte", "95 % over documents"], *rows]), *more]


def _variants(result: RunComparison) -> list[str]:
    rows = [
        [escape(variant.name), str(len(variant.runs)), *_cells(variant.bits_per_byte)] for variant in result.variants
    ]
    return align_columns([["variant", "seeds", "bits per byte", "95 % over seeds"], *rows])


def _verdict(pair: VariantPair) -> list[str]:
    """Return what is known about two variants, and what would decide."""
    first, second, seeds = escape(pair.first), escape(pair.second), pair.over_seeds
    if seeds is None:
        return [f"{first} and {second} have no seed in common: train both with the same seeds to pair them."]
    count = len(seeds.seeds)
    if count < 2:
        return [
            f"{first} and {second}: one seed in common. The intervals cover the choice of documents, not that of the "
            "seed: train more seeds of both (--seed)."
        ]
    interval = seeds.interval
    value = f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
    differences = ", ".join(f"{difference:+.4f}" for difference in seeds.differences)
    text = f"{first} minus {second} over {count} seeds: {value} bits per byte; by seed {differences}. "
    if seeds.decided:
        better = first if interval.value < 0 else second
        return [f"{text}{better} is better."]
    if seeds.seeds_to_decide is None:
        return [f"{text}No difference."]
    more = max(seeds.seeds_to_decide - count, 1)
    return [f"{text}Not decided: a difference of this size needs about {count + more:,} seeds, {more:,} more."]


def _cells(interval: ConfidenceInterval) -> list[str]:
    signed = "+" if interval.low < 0 or interval.value <= 0 else ""
    bounds = "-" if math.isnan(interval.low) else f"{interval.low:{signed}.4f} to {interval.high:{signed}.4f}"
    return [f"{interval.value:{signed}.4f}", bounds]
