"""Resume a run exactly where it stopped, train it longer, or branch a new run from one of its checkpoints.

A run that is trained longer keeps the learning rates that it had, and the rate does not jump: --schedule auto stretches
a schedule that is not over, holds the end rate of one that is, and warms up again if that is 0.

Examples:
  fabella resume runs/my-stories
  fabella resume runs/my-stories --steps 5000           train longer than planned
  fabella resume runs/my-stories --minutes 30 --schedule hold
  fabella resume runs/my-stories checkpoint.every_steps=50    with a changed setting
  fabella resume runs/my-stories --checkpoint 400 --out runs/lower optimizer.lr=1e-3
  fabella resume runs/my-stories --reset-optimizer optimizer.kind=muon
  fabella resume runs/my-stories --devices 2            on another number of devices
  fabella resume runs/my-stories --engine jax           with the other engine, its optimizer state and data position
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.run_options import AsJson, BatchSize, Device, Epochs, LearningRate, writable
from fabella.cli.train import DEVICES, run_on_devices
from fabella.cli.train_result import print_train_result
from fabella.engine.rank import current_rank
from fabella.training.api import resume_as_rank
from fabella.training.setup.request import common_settings
from fabella.training.setup.resume_request import ResumeRequest


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings as section.key=value.")] = None,
    steps: Annotated[int, typer.Option(help="Train to this step; by default the length of the run.", min=0)] = 0,
    epochs: Epochs = None,
    tokens: Annotated[int, typer.Option(help="Train to this number of tokens.", min=0)] = 0,
    minutes: Annotated[float, typer.Option(help="Train this much longer, at the speed so far.", min=0)] = 0.0,
    schedule: Annotated[
        str, typer.Option(help="Learning rates of the remaining steps: auto, hold, rewarm, decay or stretch.")
    ] = "auto",
    checkpoint: Annotated[
        str, typer.Option(help="Begin a new run in --out from this checkpoint: best, latest, or a step number.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Directory of a new run that begins with a checkpoint.", callback=writable)
    ] = None,
    reset_optimizer: Annotated[
        bool, typer.Option("--reset-optimizer", help="Start with a fresh optimizer: no moments, no updates.")
    ] = False,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    data: Annotated[Path | None, typer.Option(help="New path of the dataset, if it was moved.")] = None,
    device: Device = "auto",
    devices: Annotated[str, typer.Option(help=DEVICES)] = "1",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the run.")] = "",
    as_json: AsJson = False,
) -> None:
    settings = [*common_settings(lr=lr, batch_size=batch_size), *(overrides or [])]
    settings += [f"engine={engine}"] if engine else []
    request = ResumeRequest(
        run=run,
        overrides=settings,
        steps=steps,
        epochs=epochs or 0.0,
        tokens=tokens,
        minutes=minutes,
        schedule=schedule,
        reset_optimizer=reset_optimizer,
        checkpoint=checkpoint,
        out=out,
        data=data,
    )
    run_on_devices(devices, request.engine, partial(_resume, request, device, as_json=as_json))


def _resume(request: ResumeRequest, device: str, *, as_json: bool) -> None:
    result = resume_as_rank(request, device)
    if current_rank().is_main:
        print_train_result(result, as_json=as_json)
