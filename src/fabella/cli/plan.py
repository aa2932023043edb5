"""Tell before or amid a training what it will take: memory by part, disk, steps, tokens, time, and whether it fits.

Examples:
  fabella plan piny-37m                                  takes a few real steps to measure the time
  fabella plan my-stories.txt --no-measure               only what can be reckoned
  fabella plan minigpt-100m training.micro_batch_size=16 training.gradient_checkpointing=blocks
  fabella plan tinystories-8m --device cuda --memory 16GB --json
  fabella plan runs/mine                                 what is left of a run that has begun

The steps are taken in a process of their own: one that needs too much memory ends, and this one says so.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.batch_size import available_memory
from fabella.cli.output import print_json, print_result, print_status
from fabella.data.dataset import TokenizedDataset, is_dataset, open_dataset
from fabella.data.modes.mode import data_mode
from fabella.planning.estimate import Estimate, disk_place, forecast
from fabella.planning.memory import MemoryBudget, size_in_bytes
from fabella.planning.probe import REASONS, ProbeLimits
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.storage import format_bytes, free_bytes
from fabella.tracking.console import duration
from fabella.training.api import change_config
from fabella.training.setup.request import ResolvedRequest, TrainRequest, already_prepared, resolve_request


def command(
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, a text, or a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="A source of text, or a prepared folder.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where the run would lie; usually runs/NAME.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: as the config says.", min=0)] = 0,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Take a few steps to measure.")] = True,
    seconds: Annotated[float, typer.Option(help="Longest time for measuring.", min=1)] = 120.0,
    memory: Annotated[str, typer.Option(help="Memory there is, as 16GB; usually what this machine has free.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually as the config says.")] = "",
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    begun = RunDir.open(Path(what)) if (Path(what) / CONFIG).is_file() else None
    if begun:
        planned = _begun(begun, data, steps, [*(overrides or []), *([f"engine={engine}"] if engine else [])])
    else:
        planned = resolve_request(
            TrainRequest(what=what, data=data, engine=engine, steps=steps, overrides=tuple(overrides or ()))
        )
    for reason in planned.reasons:
        print_status(reason)
    ids = prepared_of(planned, prepared)
    room, on_gpu = available_memory(planned.run, device)
    if memory:
        room = MemoryBudget(size_in_bytes(memory), size_in_bytes(memory), room.where)
    given = ProbeLimits(
        limit=room.free, on_gpu=on_gpu, seconds=seconds, device=device, prepared=str(ids.folder) if ids else ""
    )
    place = disk_place(out or (begun.path if begun else Path("runs") / planned.run.name))
    saved = begun.steps() if begun else []
    told = forecast(planned.run, ids, room, free_bytes(place), given if measure else None, saved=saved)
    if as_json:
        print_json(to_json(planned.run, told))
    else:
        print_result("\n".join(format_table(planned, told)))


def _begun(folder: RunDir, data: str, steps: int, overrides: list[str]) -> ResolvedRequest:
    """The run in ``folder`` as ``fabella resume`` would go on with it, and its data, if that is there."""
    run = change_config(folder.run, [*overrides, *([f"training.length.max_steps={steps}"] if steps else [])])
    ids = Path(data) if data else (folder.path / str(folder.manifest.get("data", {}).get("folder", ""))).resolve()
    return ResolvedRequest(run, open_dataset(ids) if is_dataset(ids) else None, ())


def prepared_of(planned: ResolvedRequest, root: Path) -> TokenizedDataset | None:
    """The prepared data, if it is there; of a stream only the head would be, which says nothing of the rest."""
    if not data_mode(planned.run.data.mode.kind).complete:
        return None
    return planned.prepared or already_prepared(planned.run, root)


def to_json(run: RunConfig, told: Estimate) -> dict[str, Any]:
    """Everything, for programs; null where it is not known."""
    pace, length = told.pace, told.length
    return {
        "name": run.name,
        "parameters": told.parameters,
        "non_embedding_parameters": told.without_embeddings,
        "flops_per_token": told.flops_per_token,
        "steps": length.steps,
        "steps_taken": length.taken,
        "tokens": length.tokens,
        "epochs": length.epochs,
        "windows_per_step": length.windows_per_step,
        "memory_bytes": {"on_device": told.memory.on_device, "beside": told.memory.beside},
        "memory_needed_bytes": told.memory_needed,
        "memory_free_bytes": told.room.free,
        "memory_total_bytes": told.room.total,
        "measured_peak_bytes": pace.trial.peak_bytes if pace and pace.trial.fits else None,
        "checkpoint_bytes": told.disk.checkpoint,
        "disk_needed_bytes": told.disk.needed,
        "disk_free_bytes": told.disk.free,
        "tokens_per_second": pace.tokens_per_second if pace and pace.trial.fits else None,
        "seconds": pace.seconds_left if pace else None,
        "trial": pace.trial.reason or "fits" if pace else "not made",
        "fits_memory": told.fits_memory,
        "fits_disk": told.fits_disk,
    }


def format_table(planned: ResolvedRequest, told: Estimate) -> list[str]:
    """The same for people."""
    run = planned.run
    return [
        f"{run.name}: {told.parameters:,} parameters, {told.without_embeddings:,} without embeddings",
        "",
        *_memory(told),
        "",
        *_length(run, told),
        *_time(told),
        f"disk       {format_bytes(told.disk.needed)} for {told.disk.checkpoints} checkpoints of "
        f"{format_bytes(told.disk.checkpoint)}; {format_bytes(told.disk.free)} are free",
        "",
        *_verdict(told),
    ]


def _memory(told: Estimate) -> list[str]:
    rows = [*told.memory.on_device.items(), *told.memory.beside.items()]
    width = max(len(format_bytes(size)) for _, size in rows)
    where = " (the machine's, not the GPU's)" if told.on_gpu else ""
    shown = [f"  {format_bytes(size):>{width}}  {part}" for part, size in told.memory.on_device.items()]
    shown += [f"  {format_bytes(size):>{width}}  {part}{where}" for part, size in told.memory.beside.items()]
    pace = told.pace
    measured = [f"  measured: {format_bytes(pace.trial.peak_bytes)} at most"] if pace and pace.trial.fits else []
    return [f"memory     {format_bytes(told.memory_needed)}", *shown, *measured]


def _length(run: RunConfig, told: Estimate) -> list[str]:
    length = told.length
    sizes = ", ".join(f"{windows:,} from step {first:,}" if first else f"{windows:,}"
                      for first, windows in length.windows_per_step)  # fmt: skip
    steps = f"{length.steps:,}" if length.steps else "known when the text is prepared (fabella prepare, or train)"
    epochs = f", {length.epochs:.2f} epochs" if length.epochs else ""
    tokens = f"{length.tokens:,} tokens{epochs}" if length.tokens else epochs.removeprefix(", ")
    shown = [f"steps      {steps}, of windows: {sizes}; {run.data.sequences.length:,} tokens each"]
    shown += [f"           {tokens}"] if tokens else []
    to_go = max((length.steps or 0) - length.taken, 0)
    return [*shown, f"           {length.taken:,} steps are taken, {to_go:,} are left"] if length.taken else shown


def _time(told: Estimate) -> list[str]:
    pace = told.pace
    if pace is None:
        return ["time       not measured (leave out --no-measure)"]
    if not pace.trial.fits:
        return []
    left = "known with the steps" if pace.seconds_left is None else duration(pace.seconds_left)
    steps = "steps that are left" if told.length.taken else "steps"
    return [
        f"time       {left} for the {steps}, without validation and saving, at {pace.tokens_per_second:,.0f} tokens/s"
    ]


def _verdict(told: Estimate) -> list[str]:
    free = f"{format_bytes(told.room.free)} of {format_bytes(told.room.total)} {told.room.where} are free"
    if told.fits_memory and told.fits_disk:
        return [f"It fits: {free}."]
    shown: list[str] = []
    if not told.fits_memory:
        trial = told.pace.trial if told.pace else None
        why = f"the trial {REASONS[trial.reason]}; " if trial and not trial.fits else ""
        shown.append(f"It does not fit into memory: {why}{free}.")
        shown.append(
            "Try fabella batch-size, training.gradient_checkpointing=blocks, or a shorter data.sequences.length."
        )
    if not told.fits_disk:
        shown.append(
            "It does not fit on the disk. Free some space, choose another --out, or lower checkpoint.keep_last."
        )
    return shown
