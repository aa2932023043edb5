"""Train the preset of a published system, and print what came out next to what was published.

Examples:
  fabella reproduce tinystories-8m                                   as published: text of the hub, hours on a GPU
  fabella reproduce tinystories-8m --minutes 10                      as many steps as fit into ten minutes
  fabella reproduce piny-37m --steps 200 --data stories.txt          a stated length, on another text
  fabella reproduce minigpt-100m --minutes 5 training.gradient_accumulation=[[0,1]]    with a changed setting

The run directory gets reproduction.json, the receipt: every setting that differs from the preset, the score, the
compute, the hardware, and the sha256 of the weights, which the same command gives again on the same kind of machine.
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, Seed, writable
from fabella.cli.text_options import split_words
from fabella.errors import UsageError
from fabella.evaluation.reproduction import (
    RECEIPT,
    Reproduction,
    reproduction,
    require_published,
    shorter,
    steps_in,
)
from fabella.report.plots import plot_loss
from fabella.storage import align_columns, format_duration, write_json
from fabella.training.api import train_on_devices
from fabella.training.setup.request import TrainRequest, common_settings


def command(
    name: Annotated[str, typer.Argument(help="Preset with a published result.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings that differ, as section.key=value.")] = None,
    minutes: Annotated[float, typer.Option(help="Time to train for; by default the published length.", min=0.0)] = 0.0,
    steps: Annotated[int, typer.Option(help="Training steps, in place of --minutes.", min=0)] = 0,
    data: Annotated[str, typer.Option(help="Text source, or a prepared dataset; by default that of the preset.")] = "",
    validation: Annotated[str, typer.Option(help="Text source for validation.")] = "",
    out: Annotated[Path | None, typer.Option(help="Run directory; by default runs/NAME.", callback=writable)] = None,
    seed: Seed = None,
    device: Device = "auto",
    devices: Annotated[str, typer.Option(help="Devices of this machine to train on: a number, or auto.")] = "1",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run if it is already in --out.")] = False,
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.", callback=writable)] = Path(
        "prepared"
    ),
    as_json: AsJson = False,
) -> None:
    require_published(name)
    texts, given = split_words(overrides)
    if texts:
        raise UsageError(f"'{texts[0]}' is not a setting.", hint="Give a text with --data TEXT.")
    if minutes and steps:
        raise UsageError(f"--minutes {minutes:g} and --steps {steps} both set the length.", hint="Leave out one.")
    if minutes:
        print_status("Measuring this machine …")
        steps = steps_in(minutes, name, given, device=device)
        print_status(f"{steps:,} steps, about {minutes:g} minutes. To repeat them on another machine: --steps {steps}")
    if steps:
        given = shorter(given, steps)
    request = TrainRequest(
        what=name,
        data=data,
        validation=validation,
        overrides=(*common_settings(seed=seed), *given),
        out=out,
        prepared=prepared,
        device=device,
        resume=resume,
    )
    result = train_on_devices(devices, request)
    receipt = reproduction(name, result)
    write_json(result.path / RECEIPT, receipt.as_json())
    plot_loss(result.path)
    if as_json:
        print_json(receipt.as_json())
    else:
        print_result("\n".join(lines(receipt)))


def lines(receipt: Reproduction) -> list[str]:
    """Return the table of a receipt and the settings that differ from the preset."""
    score = receipt.score
    loss, bits = f"loss {score['loss']:.4f}", f"{score['bits_per_byte']:.4f} bits per byte"
    rows = [
        ("published", receipt.published),
        ("obtained", f"{loss}, {bits} ({score['rule']}) on {score['tokens']:,} held-out tokens"),
        ("compute", _compute(receipt)),
        ("hardware", receipt.machine),
        ("weights", f"sha256 {receipt.weights_sha256}"),
    ]
    text = align_columns(rows, left=(0, 1))
    if not receipt.changes:
        return [*text, "Every setting is that of the preset."]
    table = [("setting", "preset", "here"), *((key, *values) for key, values in receipt.main_changes.items())]
    note = "A loss on another text, or with another tokenizer, cannot be compared with the published one."
    return [*text, "", *align_columns(table, left=(0, 1, 2)), "", note, f"Receipt: {receipt.run}/{RECEIPT}"]


def _compute(receipt: Reproduction) -> str:
    duration = format_duration(receipt.seconds)
    return f"{receipt.steps:,} steps, {receipt.tokens:,} tokens, {duration}, {receipt.flops:.2e} FLOPs"
