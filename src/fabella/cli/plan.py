"""Estimate the memory, disk space, steps, tokens and time of a run, and whether it fits.

Examples:
  fabella plan piny-37m                                  take a few steps to measure the speed
  fabella plan my-stories.txt --no-measure               estimate only, without measuring
  fabella plan minigpt-100m training.micro_batch_size=16 training.gradient_checkpointing=blocks
  fabella plan tinystories-8m --device cuda --memory 16GB --json
  fabella plan runs/mine                                 the rest of a started run

The steps run in a child process: if it runs out of memory, the estimate says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.batch_size import available_memory
from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device
from fabella.cli.text_options import (
    ReadingOptions,
    TokenizerOptions,
    Words,
    expand_options,
    require_defaults,
    text_request,
)
from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import data_mode
from fabella.planning.estimate import Estimate, estimate, existing_parent
from fabella.planning.memory import MemoryBudget, parse_bytes
from fabella.planning.probe import REASONS, ProbeLimits
from fabella.run_config.run import RunConfig
from fabella.runs.run_dataset import find_run_dataset
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.storage import format_bytes, format_duration, free_bytes
from fabella.training.setup.mixture_use import describe_mixture, part_uses
from fabella.training.setup.request import ResolvedRequest, already_prepared, resolve_request
from fabella.training.setup.resume_request import change_config


@expand_options
def command(
    reading: ReadingOptions,
    tokenizing: TokenizerOptions,
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, a text file, or a run directory.")],
    overrides: Words = None,
    data: Annotated[str, typer.Option(help="A text source, or the directory of a dataset.")] = "",
    out: Annotated[Path | None, typer.Option(help="Directory of the run; by default runs/NAME.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps; by default the length of the config.", min=0)] = 0,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Take a few steps to measure the speed.")
    ] = True,
    measure_timeout: Annotated[float, typer.Option(help="Timeout of the measurement, in seconds.", min=1)] = 120.0,
    memory: Annotated[str, typer.Option(help="Memory limit, e.g. 16GB; by default the free memory.")] = "",
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.")] = Path("prepared"),
    as_json: AsJson = False,
) -> None:
    started = RunDir.open(Path(what)) if (Path(what) / CONFIG).is_file() else None
    if started:
        require_defaults(reading, tokenizing, overrides, what)
        planned = _started_run(started, data, steps, [*(overrides or []), *([f"engine={engine}"] if engine else [])])
    else:
        planned = resolve_request(
            text_request(what, overrides, reading, tokenizing, data=data, engine=engine, steps=steps)
        )
    for reason in planned.reasons:
        print_status(reason)
    ids = prepared_of(planned, prepared)
    planned, sentences = fitted(planned, ids)
    for sentence in sentences:
        print_status(sentence)
    budget, on_gpu = available_memory(planned.run, device)
    if memory:
        budget = MemoryBudget(parse_bytes(memory), parse_bytes(memory), budget.where)
    limits = ProbeLimits(
        limit=budget.free,
        on_gpu=on_gpu,
        seconds=measure_timeout,
        device=device,
        prepared=str(ids.path) if ids else "",
    )
    parent = existing_parent(out or (started.path if started else Path("runs") / planned.run.name))
    saved = started.steps() if started else []
    result = estimate(planned.run, ids, budget, free_bytes(parent), limits if measure else None, saved=saved)
    if as_json:
        uses = part_uses(planned.run, ids) if ids else []
        print_json({**to_json(planned.run, result), "mixture": [use.as_json() for use in uses]})
    else:
        print_result("\n".join(format_table(planned, result)))


def _started_run(run_dir: RunDir, data: str, steps: int, overrides: list[str]) -> ResolvedRequest:
    """Return a run with the settings of ``fabella resume``, and its dataset if that exists."""
    run = change_config(run_dir.run, [*overrides, *([f"training.length.max_steps={steps}"] if steps else [])])
    return ResolvedRequest(run, find_run_dataset(run_dir, Path(data) if data else None), ())


def prepared_of(planned: ResolvedRequest, root: Path) -> TokenizedDataset | None:
    """Return the dataset if it exists; None for a stream, of which only the start is known."""
    if not data_mode(planned.run.data.mode.kind).complete:
        return None
    return planned.prepared or already_prepared(planned.run, root)


def fitted(planned: ResolvedRequest, ids: TokenizedDataset | None) -> tuple[ResolvedRequest, Sequence[str]]:
    """Return the request with the sequences that ``fabella train`` would use, and the share of the text they read."""
    if ids is None:
        run, sentences = planned.estimate_fit()
        return replace(planned, run=run), sentences
    run, sentences = planned.fit(ids)
    return replace(planned, run=run), [*sentences, *describe_mixture(run, ids)]


def to_json(run: RunConfig, estimate: Estimate) -> dict[str, Any]:
    """Return the estimate as JSON values; null if unknown."""
    speed, length = estimate.speed, estimate.length
    return {
        "name": run.name,
        "parameters": estimate.parameters,
        "non_embedding_parameters": estimate.non_embedding_parameters,
        "flops_per_token": estimate.flops_per_token,
        "steps": length.steps,
        "steps_taken": length.taken,
        "tokens": length.tokens,
        "epochs": length.epochs,
        "sequences_per_step": length.sequences_per_step,
        "memory_bytes": {"on_device": estimate.memory.on_device, "host": estimate.memory.host},
        "memory_needed_bytes": estimate.memory_needed,
        "memory_free_bytes": estimate.budget.free,
        "memory_total_bytes": estimate.budget.total,
        "measured_peak_bytes": speed.trial.peak_bytes if speed and speed.trial.measured else None,
        "checkpoint_bytes": estimate.disk.checkpoint,
        "disk_needed_bytes": estimate.disk.needed,
        "disk_free_bytes": estimate.disk.free,
        "tokens_per_second": speed.tokens_per_second if speed and speed.trial.measured else None,
        "seconds": speed.seconds_left if speed else None,
        "trial": speed.trial.reason or "fits" if speed else "not measured",
        "fits_memory": estimate.fits_memory,
        "fits_disk": estimate.fits_disk,
    }


def format_table(planned: ResolvedRequest, estimate: Estimate) -> list[str]:
    """Return the estimate as lines of text."""
    run = planned.run
    return [
        f"{run.name}: {estimate.parameters:,} parameters, {estimate.non_embedding_parameters:,} non-embedding",
        "",
        *_memory(estimate),
        "",
        *_length(run, estimate),
        *_time(estimate),
        f"disk       {format_bytes(estimate.disk.needed)} for {estimate.disk.checkpoints} checkpoints of "
        f"{format_bytes(estimate.disk.checkpoint)}; {format_bytes(estimate.disk.free)} are free",
        "",
        *_verdict(estimate),
    ]


def _memory(estimate: Estimate) -> list[str]:
    rows = [*estimate.memory.on_device.items(), *estimate.memory.host.items()]
    width = max(len(format_bytes(size)) for _, size in rows)
    where = " (host memory)" if estimate.on_gpu else ""
    lines = [f"  {format_bytes(size):>{width}}  {part}" for part, size in estimate.memory.on_device.items()]
    lines += [f"  {format_bytes(size):>{width}}  {part}{where}" for part, size in estimate.memory.host.items()]
    speed = estimate.speed
    measured = [f"  measured peak: {format_bytes(speed.trial.peak_bytes)}"] if speed and speed.trial.measured else []
    return [f"memory     {format_bytes(estimate.memory_needed)}", *lines, *measured]


def _length(run: RunConfig, estimate: Estimate) -> list[str]:
    length = estimate.length
    sizes = ", ".join(f"{size:,} from step {first:,}" if first else f"{size:,}"
                      for first, size in length.sequences_per_step)  # fmt: skip
    steps = f"{length.steps:,}" if length.steps else "unknown until the text is prepared (fabella prepare or train)"
    epochs = f", {length.epochs:.2f} epochs" if length.epochs else ""
    tokens = f"{length.tokens:,} tokens{epochs}" if length.tokens else epochs.removeprefix(", ")
    lines = [f"steps      {steps}, sequences per step: {sizes}; {run.data.sequences.length:,} tokens each"]
    lines += [f"           {tokens}"] if tokens else []
    remaining = max((length.steps or 0) - length.taken, 0)
    return [*lines, f"           {length.taken:,} steps done, {remaining:,} remaining"] if length.taken else lines


def _time(estimate: Estimate) -> list[str]:
    speed = estimate.speed
    if speed is None:
        return ["time       not measured (remove --no-measure)"]
    if speed.trial.reason == "time":
        return ["time       not measured: a few steps took longer than --measure-timeout"]
    if not speed.trial.measured:
        return []
    left = "unknown" if speed.seconds_left is None else format_duration(speed.seconds_left)
    steps = "remaining steps" if estimate.length.taken else "steps"
    return [
        f"time       {left} for the {steps}, without validation and checkpoints, "
        f"at {speed.tokens_per_second:,.0f} tokens/s"
    ]


def _verdict(estimate: Estimate) -> list[str]:
    budget = estimate.budget
    free, total = format_bytes(budget.free), f"{format_bytes(budget.total)} {budget.where}"
    free = f"{free} of {total} are free" if budget.free < budget.total else f"{total} are allowed by --memory"
    trial = estimate.speed.trial if estimate.speed else None
    estimated = " by the estimate" if trial and not trial.measured else ""
    if estimate.fits_memory and estimate.fits_disk:
        return [f"It fits{estimated}: {free}."]
    lines: list[str] = []
    if not estimate.fits_memory:
        reason = f"the trial {REASONS[trial.reason]}; " if trial and trial.fits is False else ""
        lines.append(f"It does not fit into memory{estimated if not reason else ''}: {reason}{free}.")
        lines.append(
            "Try fabella batch-size, training.gradient_checkpointing=blocks, or a shorter data.sequences.length."
        )
    if not estimate.fits_disk:
        lines.append(
            "It does not fit on the disk. Free some space, choose another --out, or lower checkpoint.keep_last."
        )
    return lines
