"""Train families of one size on the same text, for equal tokens or equal time, and show them side by side.

Examples:
  fabella compare-architectures my-stories.txt --steps 500 --parameters 1200000
  fabella compare-architectures storybook-1m --minutes 2                 equal time instead of equal tokens
  fabella compare-architectures storybook-1m --families mingru,hybrid --layers 6
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.report.axes import duration
from fabella.report.page import page
from fabella.report.run_history import read
from fabella.storage import atomic_write
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request
from fabella.tuning.compare import Compared, compare, matched_model, steps_for_seconds


def command(
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, or a text.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings of all, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="A source of text, or a prepared folder.")] = "",
    families: Annotated[str, typer.Option(help="Which ones, with commas.")] = "mingru,gpt2,llama,hybrid",
    parameters: Annotated[int, typer.Option(help="Of each model, at most.", min=1)] = 1_200_000,
    layers: Annotated[int, typer.Option(help="Of each model.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each; 0: as the config says.", min=0)] = 0,
    minutes: Annotated[float, typer.Option(help="Of steps for each, instead of equal steps.", min=0.0)] = 0.0,
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs/architectures"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually as the config says.")] = "",
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    planned = resolve_request(
        TrainRequest(what=what, data=data, engine=engine, steps=steps, overrides=tuple(overrides or ()))
    )
    chosen = [family.strip() for family in families.split(",")]
    runs = [matched_model(planned.run, family, parameters, layers) for family in chosen]
    ids = planned.prepared
    if ids is None:
        with PrepareProgressLine() as line:
            ids = prepare_data(planned.run, prepared, progress=line)
        print_notes(ids.manifest)
    if minutes:
        runs = [steps_for_seconds(run, minutes, device=device) for run in runs]
    found = compare(runs, ids, out, device=device)
    target = out / "compare.html"
    atomic_write(target, page([read(one.folder) for one in found]).encode())
    if as_json:
        print_json({"compared": [{**asdict(one), "folder": str(one.folder)} for one in found], "page": str(target)})
        return
    print_result("\n".join(table(found)))
    print_status(
        "The same text, tokenizer, windows, batch and optimizer for all; what suits one best was not searched for."
    )
    print_result(f"Side by side: {target}")


def table(found: list[Compared]) -> list[str]:
    """A line a family, the best first."""
    head = (
        f"{'family':<10} {'parameters':>11} {'steps':>7} {'tokens':>12} {'time':>8} {'loss':>8} {'bits per byte':>14}"
    )
    rows = [
        f"{one.family:<10} {one.parameters:>11,} {one.steps:>7,} {one.tokens:>12,} {duration(one.seconds):>8} "
        f"{one.loss:>8.4f} {one.bits_per_byte:>14.4f}"
        for one in found
    ]
    return [head, *rows]
