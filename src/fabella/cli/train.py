"""Train a model on a text, a preset, or your own config.

Examples:
  fabella train my-stories.txt                          choose tokenizer, model and length, and print the reasons
  fabella train stories/*.txt --encoding cp1252         several files, in an encoding that is not detected
  fabella train storybook-1m --steps 200                a preset on its own data
  fabella train piny-37m --data my-stories.txt --out runs/mine
  fabella train my-stories.txt --init-from runs/quickstart    fine-tune the weights of a run on a text
  fabella train mine.yaml --lr 3e-4 --seed 7            a config file with two changed settings
  fabella train mine.yaml training.precision=bf16       every other setting, as section.key=value
  fabella train piny-37m --devices auto                 on all GPUs of this machine
  torchrun --nproc-per-node 8 -m fabella train piny-37m as one of many processes; see docs/guide-clusters.md
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.main import run_with_error_codes
from fabella.cli.run_options import AsJson, BatchSize, Device, Epochs, LearningRate, Seed, writable
from fabella.cli.text_options import ChatOptions, ReadingOptions, TokenizerOptions, Words, expand_options, split_first
from fabella.cli.train_result import print_train_result
from fabella.engine import engine as engines
from fabella.engine.rank import current_rank
from fabella.errors import ConfigError
from fabella.training.api import training_call
from fabella.training.fine_tuning.request import engine_of_training
from fabella.training.setup.request import (
    TrainRequest,
    common_settings,
)

DEVICES = "Devices of this machine to train on, one process each: a number, or auto."


@expand_options
def command(
    reading: ReadingOptions,
    chat: ChatOptions,
    tokenizing: TokenizerOptions,
    what: Annotated[str, typer.Argument(help="Text (file, directory, glob), preset, or .yaml config.")] = "",
    overrides: Words = None,
    data: Annotated[str, typer.Option(help="Text source, or a prepared dataset.")] = "",
    init_from: Annotated[
        str, typer.Option(help="Run or checkpoint whose weights the run begins with, to fine-tune them.")
    ] = "",
    validation: Annotated[str, typer.Option(help="Text source for validation.")] = "",
    out: Annotated[Path | None, typer.Option(help="Run directory; by default runs/NAME.", callback=writable)] = None,
    steps: Annotated[int, typer.Option(help="Training steps; by default the length of the config.", min=0)] = 0,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    device: Device = "auto",
    devices: Annotated[str, typer.Option(help=DEVICES)] = "1",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run if it is already in --out.")] = False,
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.", callback=writable)] = Path(
        "prepared"
    ),
    as_json: AsJson = False,
) -> None:
    what, more, given = split_first(what, overrides)
    settings = reading.settings() + chat.settings() + tokenizing.settings()
    settings += common_settings(steps=steps, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    request = TrainRequest(
        what=what,
        more=more,
        reading=reading.changes(),
        data=data,
        init_from=init_from,
        validation=validation,
        engine=engine,
        steps=steps,
        overrides=(*settings, *given),
        out=out,
        prepared=prepared,
        device=device,
        resume=resume,
    )
    run_on_devices(devices, engine_of_training(request), partial(_train, request, as_json=as_json))


def run_on_devices(devices: str, engine: str, work: Callable[[], None]) -> None:
    """Call ``work`` in this process, or in one new process for each of ``devices``; raise Exit with their code."""
    rank = current_rank()
    if rank.world_size > 1:
        if devices not in {"1", "auto", str(rank.local_world_size)}:
            raise ConfigError(
                f"--devices {devices}, but a launcher has started {rank.local_world_size} processes on this machine.",
                hint="Omit --devices.",
            )
        work()
        return
    found = engines.find_launcher(engine, devices)
    if found is None:
        work()
        return
    launcher, count = found
    raise typer.Exit(launcher.launch(count, run_with_error_codes, work))


def _train(request: TrainRequest, *, as_json: bool) -> None:
    result = training_call(request)()
    if current_rank().is_main:
        print_train_result(result, as_json=as_json)
