"""Checkpoints: saved so that no death of the process, the disk or the power leaves a half one that looks whole.

save   clean → aside → fsync → manifest → rename → fsync of the folder → ``latest`` → prune
load   ``latest``, or the newest whole one by step, never by time; an explicit step is never replaced by another
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from fabella.config.training import RollBack
from fabella.engine.engine import State
from fabella.errors import CheckpointError, DiskFullError, StorageError
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import Shape, state_spec
from fabella.runs import checkpoint_validation
from fabella.runs.run_dir import RunDir, parse_step, step_name
from fabella.runs.safetensors_io import dump_tensors, load_tensors, size_of
from fabella.storage import (
    MANIFEST,
    atomic_dir,
    escaped,
    find_stale_temps,
    format_bytes,
    free_bytes,
    manifest_entries,
    read_manifest,
    read_verified,
    remove_dir,
    remove_stale_temps,
    require_size,
    storage_errors,
    write_chunks,
)

__all__ = [
    "Checkpoint",
    "Loaded",
    "check",
    "latest_scheduled",
    "latest_valid_step",
    "load",
    "prune",
    "require_space",
    "save",
    "set_best",
]  # fmt: skip

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
Which = Literal["latest", "best"] | int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a later process, of any engine, needs to go on exactly."""

    state: State
    progress: Mapping[str, int | float | str]
    """How far the run has come: steps, windows and tokens used, the best loss; finite numbers and words."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint, its step, and one sentence for each that was passed over."""

    checkpoint: Checkpoint
    step: int
    warnings: list[str] = field(default_factory=list[str])


# ---------------------------------------------------------------- saving


def save(folder: RunDir, step: int, checkpoint: Checkpoint) -> None:
    """Save the checkpoint of ``step``, let ``latest`` name it, prune older ones. Call it under ``folder.lock()``.

    Raises DiskFullError or StorageError; then nothing half is left, and every older checkpoint is as it was.
    """
    table = folder.run.model.parameters()
    check(checkpoint, table, state_spec(table, folder.run.optimizer), where=step_name(step))
    kinds = checkpoint_validation.moment_kinds(checkpoint.state.optimizer_state)
    state = json.dumps(_numbers(step, checkpoint, kinds), indent=1, allow_nan=False).encode()
    weights, moments = checkpoint.state.weights, checkpoint.state.optimizer_state
    needed = size_of(weights) + size_of(moments) + len(state)
    target = folder.checkpoints / step_name(step)
    try:
        if folder.checkpoints.is_dir():
            remove_stale_temps(folder.checkpoints)
        with (
            atomic_dir(target, replace=True, needed=needed) as aside,
            storage_errors(target, f"writing {target.name}", needed=needed),
        ):
            write_chunks(aside / MODEL, dump_tensors(weights))
            write_chunks(aside / OPTIMIZER, dump_tensors(moments))
            write_chunks(aside / STATE, [state])
            write_chunks(
                aside / MANIFEST, [json.dumps({"format": checkpoint_validation.FORMAT, "step": step}).encode()]
            )
        folder.set_pointer("latest", step)
        prune(folder, folder.run.checkpoint.keep_last)
    except StorageError as error:
        raise type(error)(f"{error.message.rstrip('.')}; {_last_good(folder)}.", hint=error.hint) from error


def set_best(folder: RunDir, step: int) -> None:
    """Let ``best`` name the checkpoint of ``step``, which is kept until another is best."""
    folder.set_pointer("best", step)


def prune(folder: RunDir, keep: int) -> list[int]:
    """Remove all but the newest ``keep`` whole checkpoints up to ``latest``; returns the steps removed.

    Never ``latest``, ``best``, what this process loaded, what is being written, or what is later than ``latest``; where
    ``training.on_nonfinite`` goes back to it, not the newest that ``checkpoint.every_steps`` asked for.
    """
    latest, best = _pointer_or_none(folder, "latest"), _pointer_or_none(folder, "best")
    if latest is None:
        return []
    older = [step for step in reversed(folder.steps()) if step <= latest]
    kept = [step for step in older if is_complete(folder, step)][:keep]
    oldest = kept[-1] if len(kept) == keep else 0
    due = next((step for step in reversed(_due(folder)) if step <= latest and is_complete(folder, step)), None)
    due = due if isinstance(folder.run.training.on_nonfinite, RollBack) else None
    victims = [step for step in older if step < oldest and step not in {latest, best, due, *folder.in_use}]
    for step in victims:
        remove_dir(folder.checkpoints / step_name(step))
    return victims


def require_space(run: Path, needed: int) -> None:
    """Raises DiskFullError where ``needed`` bytes of checkpoints would not fit in ``run``: before a step is taken."""
    free = free_bytes(run)
    if free < needed:
        raise DiskFullError(
            f"disk full: the checkpoints of this run need {format_bytes(needed)}, "
            f"{format_bytes(free)} are free at {escaped(str(run), 500)}.",
            hint="Free some space there, choose another --out, or lower checkpoint.keep_last.",
        )


def _numbers(step: int, checkpoint: Checkpoint, kinds: list[str]) -> dict[str, Any]:
    values = {**checkpoint.state.scalars, **checkpoint.progress}
    endless = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if endless:
        raise CheckpointError(f"{step_name(step)}: {endless[0]} = {values[endless[0]]} is no finite number; not saved.")
    return {
        "format": checkpoint_validation.FORMAT,
        "step": step,
        "moments": kinds,
        "numbers": dict(checkpoint.state.scalars),
        "progress": dict(checkpoint.progress),
    }


def _last_good(folder: RunDir) -> str:
    step = latest_valid_step(folder)
    return "there is no checkpoint yet" if step is None else f"the last good checkpoint is {step_name(step)}"


def check(
    checkpoint: Checkpoint, table: ParameterTable, spec: Mapping[str, Shape], *, where: str = "the checkpoint"
) -> None:
    """Compare names, shapes and dtypes with a family's parameter table and an optimizer's ``state_spec``.

    Raises CheckpointError naming the first five that are missing, extra, or of another shape or dtype.
    """
    checkpoint_validation.checked_weights(checkpoint.state.weights, table, where=f"{where}/{MODEL}")
    checkpoint_validation.checked_moments(checkpoint.state.optimizer_state, spec, where=f"{where}/{OPTIMIZER}")


# ---------------------------------------------------------------- loading


def load(folder: RunDir, which: Which, *, weights_only: bool = False) -> Loaded:
    """A checkpoint whose every byte was checked: sizes and sha256, then names, shapes and dtypes of the weights.

    ``latest`` and ``best`` fall back to the newest whole one by step, and say so in ``ignored``; a step is that step
    or a CheckpointError. ``weights_only`` leaves the optimizer's moments unread and empty.
    """
    if isinstance(which, int):
        folder.in_use.add(which)
        return Loaded(_load_exact(folder, which, weights_only), which)
    first, ignored = _resolve_pointer(folder, which)
    later = [step for step in reversed(folder.steps()) if step != first]
    for step in later if first is None else [first, *later]:
        try:
            checkpoint = _read(folder, step, weights_only)
        except StorageError as error:
            ignored.append(_skip_reason(folder, step, error))
            continue
        folder.in_use.add(step)
        ignored += _uncommitted(folder, step) if which == "latest" else []
        verb = "resuming" if which == "latest" else "taking"
        return Loaded(checkpoint, step, [f"{line}; {verb} {step_name(step)}" for line in ignored])
    place = escaped(str(folder.path), 500)
    raise CheckpointError(
        f"{place} has no whole checkpoint{': ' if ignored else ''}{'; '.join(ignored)}.",
        hint=f"Train it anew: fabella train {quote(f'{place}/config.yaml')}"
        if ignored
        else f"Train it: fabella resume {quote(place)}",
    )


def latest_scheduled(folder: RunDir) -> Loaded | None:
    """The newest good one of those that ``checkpoint.every_steps`` asked for, none where there is none."""
    for step in reversed(_due(folder)):
        if is_complete(folder, step):
            try:
                return load(folder, step)
            except StorageError:  # a byte of it is damaged: the one before is good enough
                continue
    return None


def _due(folder: RunDir) -> list[int]:
    return [step for step in folder.steps() if step % folder.run.checkpoint.every_steps == 0]


def latest_valid_step(folder: RunDir) -> int | None:
    """The newest step whose checkpoint has all its files at their full sizes; ``load`` also reads every byte."""
    return next((step for step in reversed(folder.steps()) if is_complete(folder, step)), None)


def is_complete(folder: RunDir, step: int) -> bool:
    """Whether a checkpoint's manifest is sound and all its files are there at their full sizes."""
    path = folder.checkpoints / step_name(step)
    try:
        manifest = read_manifest(path)
        for name in manifest_entries(path, manifest):
            require_size(path, manifest, name)
    except StorageError:
        return False
    return True


def _load_exact(folder: RunDir, step: int, weights_only: bool) -> Checkpoint:
    try:
        return _read(folder, step, weights_only)
    except StorageError as error:
        others = [step_name(other) for other in folder.steps() if other != step and is_complete(folder, other)]
        fix = f"Others of this run: {', '.join(others)}." if others else ""
        if not (folder.checkpoints / step_name(step)).exists():
            raise CheckpointError(f"{escaped(str(folder.path), 500)} has no {step_name(step)}.", hint=fix) from None
        raise CheckpointError(error.message, hint=fix or error.hint) from error


def _resolve_pointer(folder: RunDir, which: str) -> tuple[int | None, list[str]]:
    """Where ``latest`` or ``best`` points to, and what is wrong with it."""
    try:
        step = folder.read_pointer(which)
    except StorageError as error:
        return None, [f"ignoring {which} ({error.message.rstrip('.')})"]
    if step is None:
        return None, [f"there is no pointer {which}"] if folder.steps() else []
    if step not in folder.steps():
        return None, [f"ignoring {which} ({step_name(step)} is not there)"]
    return step, []


def _skip_reason(folder: RunDir, step: int, error: StorageError) -> str:
    if not (folder.checkpoints / step_name(step) / MANIFEST).exists():
        return f"ignoring incomplete {step_name(step)} (no manifest)"
    return f"ignoring damaged {step_name(step)} ({error.message.rstrip('.')})"


def _uncommitted(folder: RunDir, loaded: int) -> list[str]:
    """What a killed process was still writing."""
    found = [(parse_step(name), path) for name, path in find_stale_temps(folder.checkpoints)]
    return [
        f"ignoring incomplete {step_name(step)} ({'never committed' if (path / MANIFEST).exists() else 'no manifest'})"
        for step, path in found
        if step is not None and step > loaded
    ]


def _pointer_or_none(folder: RunDir, which: str) -> int | None:
    """A pointer that names nothing protects nothing; ``load`` is where that is told."""
    try:
        return folder.read_pointer(which)
    except CheckpointError:
        return None


def _read(folder: RunDir, step: int, weights_only: bool) -> Checkpoint:
    """Read and check one checkpoint; nothing of it is used before all of it was checked."""
    path = folder.checkpoints / step_name(step)
    manifest = read_manifest(path)
    numbers = checkpoint_validation.state_of(
        read_verified(path, manifest, STATE), step=step, where=f"{path.name}/{STATE}"
    )
    table = folder.run.model.parameters()
    weights = load_tensors(read_verified(path, manifest, MODEL), where=f"{path.name}/{MODEL}")
    weights = checkpoint_validation.checked_weights(weights, table, where=f"{path.name}/{MODEL}")
    moments: Mapping[str, Any] = {}
    if not weights_only:
        for name in manifest_entries(path, manifest):
            require_size(path, manifest, name)
        moments = load_tensors(read_verified(path, manifest, OPTIMIZER), where=f"{path.name}/{OPTIMIZER}")
        moments = checkpoint_validation.checked_moments(
            moments, state_spec(table, folder.run.optimizer), where=f"{path.name}/{OPTIMIZER}", kinds=numbers["moments"]
        )
    return Checkpoint(State(weights, moments, numbers["numbers"]), numbers["progress"])
