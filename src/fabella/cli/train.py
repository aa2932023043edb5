"""Train a model: on a text as it is, a preset, or a config of your own.

Examples:
  fabella train my-stories.txt                          chooses tokenizer, model and length, and says why
  fabella train storybook-1m --steps 200                a preset, on its own data
  fabella train piny-37m --data my-stories.txt --out runs/mine
  fabella train mine.yaml optimizer.lr=3e-4 seed=7      a config file, with two settings changed
  fabella train piny-37m --devices auto                 on all GPUs of this machine
  torchrun --nproc-per-node 8 -m fabella train piny-37m as one of many; on several machines: docs/guide-clusters.md
  fabella train --replay runs/mine/failures/step-00000120   a step that was not finite, taken again
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fabella.cli.main import run_with_error_codes
from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.text_options import Column, DecodeErrorsOption, Separator, text_overrides
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import RankInfo, current_rank, require_divisible
from fabella.errors import ConfigError, UsageError
from fabella.report.png import plot_loss
from fabella.runs.run_dir import require_empty
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes
from fabella.training.distributed_run import LaunchPlan, run_distributed, start_or_resume
from fabella.training.failed_step import replay as taken_again
from fabella.training.run import TrainResult
from fabella.training.setup.request import TrainRequest, engine_of, prepare_data, resolve_request

DEVICES = "Devices of this machine to train on, a process each: a number, or auto."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What the command line said."""

    asked: TrainRequest
    engine: str
    """The one that is asked for, or that of the config"""
    out: Path | None
    prepared: Path
    device: str
    resume: bool
    as_json: bool


def command(
    what: Annotated[str, typer.Argument(help="A text (file, folder, glob), a preset, or a .yaml config.")] = "",
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="A source of text, or a prepared folder.")] = "",
    validation: Annotated[str, typer.Option(help="A source of text to validate on.")] = "",
    out: Annotated[Path | None, typer.Option(help="The run's folder; usually runs/NAME.")] = None,
    separator: Separator = "auto",
    column: Column = "auto",
    decode_errors: DecodeErrorsOption = "",
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: as the config says.", min=0)] = 0,
    engine: Annotated[str, typer.Option(help="torch or jax; usually as the config says.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    devices: Annotated[str, typer.Option(help=DEVICES)] = "1",
    resume: Annotated[bool, typer.Option("--resume", help="Go on, if --out holds this very run.")] = False,
    replay: Annotated[Path | None, typer.Option(help="Take a step kept in RUN/failures again; trains nothing.")] = None,
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    if replay is not None:
        _take_again(replay, device, as_json=as_json)
        return
    if not what:
        raise UsageError("Nothing to train on was given.", hint="Give a text, a preset or a .yaml config.")
    text = text_overrides(separator, column, decode_errors, validation=bool(validation))
    asked = TrainRequest(
        what=what,
        data=data,
        validation=validation,
        engine=engine,
        steps=steps,
        overrides=(*text, *(overrides or ())),
    )
    order = _Order(
        asked=asked, engine=engine_of(asked), out=out, prepared=prepared, device=device, resume=resume, as_json=as_json
    )
    run_on_devices(devices, order.engine, partial(_train, order))


def run_on_devices(devices: str, engine: str, work: Callable[[], None]) -> None:
    """Do ``work`` in this process, or in as many new ones as there shall be ``devices``; Exit with their code."""
    place = current_rank()
    if place.world_size > 1:
        if devices not in {"1", "auto", str(place.local_world_size)}:
            raise ConfigError(
                f"--devices {devices}, but a launcher has started {place.local_world_size} processes on this machine.",
                hint="Leave out --devices.",
            )
        work()
        return
    launcher = engines.load(engine, "distributed.launcher") if devices != "1" else None
    count = launcher.devices_here(devices) if launcher else 1
    if launcher is None or count == 1:
        work()
    else:
        raise typer.Exit(launcher.launch(count, run_with_error_codes, work))


def _train(order: _Order) -> None:
    place = current_rank()
    decide = partial(_decide, order, place)
    outcome = run_distributed(place, decide, device=order.device, engine=order.engine)
    if place.is_main:
        report(outcome, as_json=order.as_json)


def _decide(order: _Order, place: RankInfo) -> LaunchPlan:
    """Config and data of the run, and whether it has begun already; in the first process only."""
    planned = resolve_request(order.asked)
    require_divisible(planned.run.training, place.world_size)
    engines.require_device(planned.run.engine, order.device, place)
    out = order.out or Path("runs") / planned.run.name
    goes_on = order.resume or place.restart_count > 0
    if not goes_on:
        require_empty(out)
    for reason in planned.reasons:
        print_status(reason)
    ids = planned.prepared
    if ids is None:
        with PrepareProgressLine() as line:
            ids = prepare_data(planned.run, order.prepared, progress=line)
        print_notes(ids.manifest)
    if goes_on:
        return start_or_resume(planned.run, out, ids)
    return LaunchPlan(planned.run, out, ids.folder, resumed=False)


def _take_again(path: Path, device: str, *, as_json: bool) -> None:
    taken = taken_again(path, device=device)
    if as_json:
        print_json({"step": taken.step, "happened": bool(taken.error), "error": taken.error, "module": taken.module})
        return
    print_result(str(taken))


def report(outcome: TrainResult, *, as_json: bool) -> None:
    """What a finished run gave, its plot, and what to do with it."""
    plot, score = plot_loss(outcome.folder), outcome.score
    if as_json:
        print_json(
            {
                "run": str(outcome.folder),
                "steps": outcome.progress.step,
                "tokens": outcome.progress.tokens,
                "loss": score.loss,
                "perplexity": score.perplexity,
                "bits_per_byte": score.bits_per_byte,
                "plot": str(plot),
            }
        )
        return
    print_result(
        f"On {score.tokens:,} held-out tokens, after {outcome.progress.step:,} steps: {score}. Its curve: {plot}"
    )
    print_result(f"Tell a story:  fabella generate {quote(str(outcome.folder))}")
