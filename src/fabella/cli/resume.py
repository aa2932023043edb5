"""Resume a run exactly where it stopped.

Examples:
  fabella resume runs/my-stories
  fabella resume runs/my-stories --steps 5000           train longer than planned
  fabella resume runs/my-stories checkpoint.every_steps=50    with a changed setting
  fabella resume runs/my-stories --devices 2            on another number of devices
  fabella resume runs/my-stories --engine jax           with the other engine, its optimizer state and data position
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.run_options import AsJson, BatchSize, Device, LearningRate
from fabella.cli.train import DEVICES, print_train_result, run_on_devices
from fabella.engine.rank import current_rank
from fabella.runs.run_dir import RunDir
from fabella.training.api import change_config
from fabella.training.distributed_run import LaunchPlan, run_distributed
from fabella.training.setup.request import common_settings


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as section.key=value.")] = None,
    steps: Annotated[int, typer.Option(help="Train to this step; by default the length of the run.", min=0)] = 0,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    data: Annotated[Path | None, typer.Option(help="New path of the dataset, if it was moved.")] = None,
    device: Device = "auto",
    devices: Annotated[str, typer.Option(help=DEVICES)] = "1",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the run.")] = "",
    as_json: AsJson = False,
) -> None:
    settings = [*common_settings(steps=steps, lr=lr, batch_size=batch_size), *(overrides or [])]
    settings += [f"engine={engine}"] if engine else []
    engine = engine or RunDir.open(run).run.engine
    run_on_devices(devices, engine, partial(_resume, run, settings, data, device, engine, as_json))


def _resume(run: Path, settings: Sequence[str], data: Path | None, device: str, engine: str, as_json: bool) -> None:
    rank = current_rank()
    result = run_distributed(rank, partial(_plan, run, settings, data), device=device, engine=engine)
    if rank.is_main:
        print_train_result(result, as_json=as_json)


def _plan(run: Path, settings: Sequence[str], data: Path | None) -> LaunchPlan:
    return LaunchPlan(change_config(RunDir.open(run).run, settings), run, data, resume=True)
