"""Go on with a run exactly where it stopped, as if it had never stopped.

Examples:
  fabella resume runs/my-stories
  fabella resume runs/my-stories --steps 5000           train longer than was planned
  fabella resume runs/my-stories checkpoint.every_steps=50    with a setting changed that may change
  fabella resume runs/my-stories --devices 2            on another number of devices than before
  fabella resume runs/my-stories --engine jax           go on with the other engine, its optimizer and data position
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.train import DEVICES, report, run_on_devices
from fabella.engine.distributed.process_group import current_rank
from fabella.runs.run_dir import RunDir
from fabella.training.api import changed
from fabella.training.distributed_run import LaunchPlan, run_distributed


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    steps: Annotated[int, typer.Option(help="Train to this optimizer step; 0: as planned.", min=0)] = 0,
    data: Annotated[Path | None, typer.Option(help="The prepared folder, if it was moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    devices: Annotated[str, typer.Option(help=DEVICES)] = "1",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    settings = [*(overrides or []), *([f"training.length.max_steps={steps}"] if steps else [])]
    settings += [f"engine={engine}"] if engine else []
    engine = engine or RunDir.open(run).run.engine
    run_on_devices(devices, engine, partial(_resume, run, settings, data, device, engine, as_json))


def _resume(run: Path, settings: Sequence[str], data: Path | None, device: str, engine: str, as_json: bool) -> None:
    place = current_rank()
    outcome = run_distributed(place, partial(_decide, run, settings, data), device=device, engine=engine)
    if place.is_main:
        report(outcome, as_json=as_json)


def _decide(run: Path, settings: Sequence[str], data: Path | None) -> LaunchPlan:
    return LaunchPlan(changed(RunDir.open(run).run, settings), run, data, resumed=True)
