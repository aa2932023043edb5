"""Train several model families of equal size on the same text and compare them.

Examples:
  fabella compare-architectures my-stories.txt --steps 500 --parameters 1200000
  fabella compare-architectures storybook-1m --minutes 2                 equal time instead of equal steps
  fabella compare-architectures storybook-1m --families mingru,hybrid --layers 6
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device
from fabella.report.page import page
from fabella.report.run_history import read
from fabella.storage import atomic_write, format_duration
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request
from fabella.tuning.compare import FamilyResult, compare, matched_model, steps_for_seconds


def command(
    what: Annotated[str, typer.Argument(help="Preset, YAML config, or text.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings for all runs, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="Text source, or directory of a prepared dataset.")] = "",
    families: Annotated[str, typer.Option(help="Model families, separated by commas.")] = "mingru,gpt2,llama,hybrid",
    parameters: Annotated[int, typer.Option(help="Maximum number of parameters per model.", min=1)] = 1_200_000,
    layers: Annotated[int, typer.Option(help="Number of layers per model.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Training steps per run; 0 takes the config's.", min=0)] = 0,
    minutes: Annotated[
        float, typer.Option(help="Training minutes per run instead of equal steps; 0 disables it.", min=0.0)
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Directory of the runs.")] = Path("runs/architectures"),
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.")] = Path("prepared"),
    as_json: AsJson = False,
) -> None:
    request = resolve_request(
        TrainRequest(what=what, data=data, engine=engine, steps=steps, overrides=tuple(overrides or ()))
    )
    names = [family.strip() for family in families.split(",")]
    runs = [matched_model(request.run, family, parameters, layers) for family in names]
    ids = request.prepared
    if ids is None:
        with PrepareProgressLine() as line:
            ids = prepare_data(request.run, prepared, progress=line)
        print_notes(ids.manifest)
    if minutes:
        runs = [steps_for_seconds(run, 60 * minutes, device=device) for run in runs]
    results = compare(runs, ids, out, device=device)
    target = out / "compare.html"
    atomic_write(target, page([read(result.run_dir) for result in results]).encode())
    if as_json:
        print_json(
            {
                "compared": [{**asdict(result), "run_dir": str(result.run_dir)} for result in results],
                "page": str(target),
            }
        )
        return
    print_result("\n".join(table(results)))
    print_status(
        "All runs use the same text, tokenizer, sequences, batch size and optimizer; none was tuned for its family."
    )
    print_result(f"Report: {target}")


def table(results: list[FamilyResult]) -> list[str]:
    """Format the results as a table, best first."""
    head = (
        f"{'family':<10} {'parameters':>11} {'steps':>7} {'tokens':>12} {'time':>8} {'loss':>8} {'bits per byte':>14}"
    )
    rows = [
        f"{result.family:<10} {result.parameters:>11,} {result.steps:>7,} {result.tokens:>12,} "
        f"{format_duration(result.seconds):>8} {result.loss:>8.4f} {result.bits_per_byte:>14.4f}"
        for result in results
    ]
    return [head, *rows]
