"""Save, load and prune checkpoints; a kill, a full disk or a power cut never leaves a partial one that looks valid.

save   remove stale temporaries → temporary → fsync → manifest → rename → fsync of the directory → ``latest`` → prune
load   ``latest``, or the last valid one by step, never by time; an explicit step is never replaced by another
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal, get_args

from fabella.config.optimizer import MeanAverage, NoAverage
from fabella.config.training import MaxSteps, RollBack
from fabella.engine.engine import State
from fabella.errors import CheckpointError, DiskFullError, StorageError, UsageError
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import Shape, state_spec
from fabella.run_config.run import RunConfig
from fabella.runs import checkpoint_validation
from fabella.runs.run_dir import FORMAT, INIT_FROM, RunDir, parse_step, step_name
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
    "max_checkpoints",
    "prune",
    "require_space",
    "save",
    "set_best",
]  # fmt: skip

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
AVERAGE = "average.safetensors"
"""File of a checkpoint with the average of the trained weights; there is none before the average begins."""
NO_POINTER = "no {} checkpoint is recorded"
BEST_STEP = "best_step"
"""Entry of the progress of a checkpoint: the step of the lowest validation loss until then."""
Which = Literal["latest", "best"] | int
Weights = Literal["trained", "average"]
"""Weights of a checkpoint: those of the training, or their average (``optimizer.average``)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a process with any engine needs to resume exactly."""

    state: State
    progress: Mapping[str, int | float | str]
    """Steps, sequences and tokens used, best loss, …: finite numbers and strings."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded checkpoint, its step, and one warning for each skipped checkpoint."""

    checkpoint: Checkpoint
    step: int
    warnings: list[str] = field(default_factory=list[str])


# ---------------------------------------------------------------- saving


def save(run_dir: RunDir, step: int, checkpoint: Checkpoint, *, scheduled: bool = False, keep: bool = False) -> None:
    """Save the checkpoint of ``step``, point ``latest`` to it and prune older ones. Call it under ``run_dir.lock()``.

    ``scheduled``: the config demands it, so that every repetition of the run saves it. ``keep``: never prune it.
    Raises DiskFullError or StorageError; then no partial files are left and every older checkpoint is unchanged.
    """
    table, trained = run_dir.run.model.parameters(), run_dir.run.trainable_parameters
    check(checkpoint, table, state_spec(trained, run_dir.run.optimizer), where=step_name(step))
    average = checkpoint_validation.checked_average(
        checkpoint.state.average, trained, checkpoint.state.scalars, where=f"{step_name(step)}/{AVERAGE}"
    )
    kinds = checkpoint_validation.moment_kinds(checkpoint.state.optimizer_state)
    values = {**_state_values(step, checkpoint, kinds), "optimizer": run_dir.run.optimizer.kind}
    state = json.dumps(values, indent=1, allow_nan=False).encode()
    # In the order of the table, whatever that of the engine: equal weights are equal files, so that a branch has the
    # sha256 of its parent.
    weights = {name: checkpoint.state.weights[name] for name in table}
    moments = checkpoint.state.optimizer_state
    marks = {"format": FORMAT, "step": step, "scheduled": scheduled, "keep": keep}
    needed = size_of(weights) + size_of(moments) + size_of(average) + len(state)
    target = run_dir.checkpoints / step_name(step)
    try:
        if run_dir.checkpoints.is_dir():
            remove_stale_temps(run_dir.checkpoints)
        with (
            atomic_dir(target, replace=True, needed=needed) as temp,
            storage_errors(target, f"writing {target.name}", needed=needed),
        ):
            write_chunks(temp / MODEL, dump_tensors(weights))
            write_chunks(temp / OPTIMIZER, dump_tensors(moments))
            if average:
                write_chunks(temp / AVERAGE, dump_tensors(average))
            write_chunks(temp / STATE, [state])
            write_chunks(temp / MANIFEST, [json.dumps(marks).encode()])
        run_dir.set_pointer("latest", step)
        prune(run_dir, run_dir.run.checkpoint.keep_last)
    except StorageError as error:
        raise type(error)(f"{error.message.rstrip('.')}; {_last_good(run_dir)}.", hint=error.hint) from error


def set_best(run_dir: RunDir, step: int) -> None:
    """Point ``best`` to the checkpoint of ``step``; pruning keeps it while it is the best."""
    run_dir.set_pointer("best", step)


def best_step(progress: Mapping[str, int | float | str]) -> int | None:
    """Return the step of the lowest validation loss up to a checkpoint with this progress; None if it is not known."""
    step = progress.get(BEST_STEP)
    return step if isinstance(step, int) else None


def restore_best(run_dir: RunDir, progress: Mapping[str, int | float | str]) -> None:
    """Point ``best`` to the best checkpoint as of the one with this progress, if it exists.

    A process killed between saving a new best checkpoint and ``set_best`` leaves the pointer to the one before.
    """
    step = best_step(progress)
    if step is not None and step != _pointer_or_none(run_dir, "best") and is_complete(run_dir, step):
        set_best(run_dir, step)


def prune(run_dir: RunDir, keep: int) -> list[int]:
    """Remove all but the last ``keep`` complete checkpoints up to ``latest``; return the removed steps.

    Keeps ``latest``, ``best``, checkpoints loaded by this process, all later than ``latest``, and those saved with
    ``keep``. If ``training.on_nonfinite`` rolls back, also keeps the last scheduled one and the best one as of then.
    """
    latest, best = _pointer_or_none(run_dir, "latest"), _pointer_or_none(run_dir, "best")
    if latest is None:
        return []
    older = [step for step in reversed(run_dir.steps()) if step <= latest]
    newest = [step for step in older if is_complete(run_dir, step)][:keep]
    oldest = newest[-1] if len(newest) == keep else 0
    scheduled = next((s for s in reversed(_scheduled(run_dir)) if s <= latest and is_complete(run_dir, s)), None)
    protected = {latest, best, *run_dir.in_use}
    if scheduled is not None and isinstance(run_dir.run.training.on_nonfinite, RollBack):
        protected |= {scheduled, _best_as_of(run_dir, scheduled)}
    candidates = [step for step in older if step < oldest and step not in protected]
    pruned = [step for step in candidates if not is_marked(run_dir, step, "keep")]
    for step in pruned:
        remove_dir(run_dir.checkpoints / step_name(step))
    return pruned


def return_to(run_dir: RunDir, step: int, progress: Mapping[str, int | float | str]) -> None:
    """Make ``step``, with this ``progress``, the latest checkpoint: set both pointers, remove all later checkpoints.

    Without a checkpoint of ``step`` (0) there is no pointer either. The newest is removed first: killed at any point,
    the run resumes from ``step`` or from a later complete checkpoint.
    """
    best = _pointer_or_none(run_dir, "best")
    known = progress.get(BEST_STEP, best)
    _point(run_dir, "best", known if isinstance(known, int) and known <= step and is_complete(run_dir, known) else None)
    _point(run_dir, "latest", step if step in run_dir.steps() else None)
    for later in sorted((later for later in run_dir.steps() if later > step), reverse=True):
        remove_dir(run_dir.checkpoints / step_name(later))


def _point(run_dir: RunDir, name: str, step: int | None) -> None:
    if step is None:
        (run_dir.path / name).unlink(missing_ok=True)
    elif step != _pointer_or_none(run_dir, name):
        run_dir.set_pointer(name, step)


def _best_as_of(run_dir: RunDir, step: int) -> int | None:
    """Return the step of the best checkpoint as of the one of ``step``; None if that is damaged or does not say."""
    path = run_dir.checkpoints / step_name(step)
    try:
        values = checkpoint_validation.parse_state(
            read_verified(path, read_manifest(path), STATE), step=step, where=f"{path.name}/{STATE}"
        )
    except StorageError:
        return None
    return best_step(values["progress"])


def max_checkpoints(run: RunConfig, existing: int) -> int:
    """Return how many checkpoints a run may still add to the ``existing`` ones at any time, at least 1.

    At most there are the last ones, the best one, the one being written, after a resume the one loaded, those kept for
    good, and those that a rollback needs.
    """
    length = run.training.length
    kept = run.checkpoint.max_kept(length.max_steps) if isinstance(length, MaxSteps) else 0
    rollback = 2 if isinstance(run.training.on_nonfinite, RollBack) else 0
    return max(run.checkpoint.keep_last + 3 + rollback + kept - existing, 1)


def require_space(run: Path, needed: int) -> None:
    """Raise DiskFullError if ``needed`` bytes of checkpoints do not fit on the disk of ``run``."""
    free = free_bytes(run)
    if free < needed:
        raise DiskFullError(
            f"disk full: the checkpoints of this run need {format_bytes(needed)}, "
            f"{format_bytes(free)} are free at {escaped(str(run), 500)}.",
            hint="Free some space there, choose another --out, or lower checkpoint.keep_last.",
        )


def _state_values(step: int, checkpoint: Checkpoint, kinds: list[str]) -> dict[str, Any]:
    values = {**checkpoint.state.scalars, **checkpoint.progress}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{step_name(step)}: {name} = {value} is not a finite number; not saved.")
    return {
        "format": FORMAT,
        "step": step,
        "optimizer_state": kinds,
        "scalars": dict(checkpoint.state.scalars),
        "progress": dict(checkpoint.progress),
    }


def _last_good(run_dir: RunDir) -> str:
    step = latest_valid_step(run_dir)
    return "there is no checkpoint yet" if step is None else f"the last good checkpoint is {step_name(step)}"


def check(
    checkpoint: Checkpoint, table: ParameterTable, spec: Mapping[str, Shape], *, where: str = "the checkpoint"
) -> None:
    """Compare names, shapes and dtypes with the parameter table of the family and the ``state_spec`` of the optimizer.

    Raises CheckpointError naming the first five arrays that are missing, unknown, or of another shape or dtype.
    """
    checkpoint_validation.checked_weights(checkpoint.state.weights, table, where=f"{where}/{MODEL}")
    checkpoint_validation.checked_moments(checkpoint.state.optimizer_state, spec, where=f"{where}/{OPTIMIZER}")


# ---------------------------------------------------------------- loading


def parse_which(checkpoint: str | int) -> Which:
    """Return ``best``, ``latest`` or a step number, also of ``step-00000100``. Raises UsageError for anything else."""
    if checkpoint == "best" or checkpoint == "latest" or isinstance(checkpoint, int):
        return checkpoint
    step = int(checkpoint) if checkpoint.isascii() and checkpoint.isdecimal() else parse_step(checkpoint)
    if step is not None:
        return step
    raise UsageError(f"Unknown checkpoint {checkpoint!r}.", hint="Use best, latest, or a step number.")


def of_average(weights: str) -> str:
    """Return what follows the step of a checkpoint in a text: nothing for the trained weights."""
    return ", average of the weights" if weights == "average" else ""


def load_weights(run_dir: RunDir, checkpoint: str | int, weights: str = "trained") -> Loaded:
    """Return a checkpoint without its optimizer state, with its trained ``weights`` or their ``average`` as weights.

    ``checkpoint``: best, latest or a step. Raises UsageError for another value of either, CheckpointError if the
    checkpoint has no average, and the errors of ``load``.
    """
    if weights not in get_args(Weights):
        raise UsageError(f"Unknown weights {weights!r}.", hint="Use trained or average.")
    loaded = load(run_dir, parse_which(checkpoint), weights_only=True)
    if weights == "trained":
        return loaded
    state, path = loaded.checkpoint.state, run_dir.checkpoints / step_name(loaded.step)
    average = _read_average(run_dir, path, read_manifest(path), state.scalars)
    if not average:
        raise _no_average(run_dir, loaded.step)
    averaged = replace(state, weights={**state.weights, **average})
    return replace(loaded, checkpoint=replace(loaded.checkpoint, state=averaged))


def _no_average(run_dir: RunDir, step: int) -> CheckpointError:
    """Return the error for a checkpoint without an average of the weights."""
    path, average = escaped(str(run_dir.path), 500), run_dir.run.optimizer.average
    if isinstance(average, NoAverage):
        return CheckpointError(
            f"{path} has no average of its weights: optimizer.average.kind = none.",
            hint="Use --weights trained, or train with optimizer.average.kind=ema.",
        )
    begins = ""
    if isinstance(average, MeanAverage):
        begins = f" It begins after step {average.start} (optimizer.average.start)."
    return CheckpointError(
        f"{step_name(step)} of {path} has no average of the weights.{begins}",
        hint="Use --checkpoint latest, or --weights trained.",
    )


def load(run_dir: RunDir, which: Which, *, weights_only: bool = False) -> Loaded:
    """Return a checkpoint after checking sizes and sha256, then names, shapes and dtypes of its arrays.

    The optimizer state of another optimizer than that of the config is left out.
    ``latest`` and ``best`` fall back to the last valid checkpoint by step, with a warning; an explicit step gives that
    step or a CheckpointError. ``weights_only`` skips optimizer state and average and leaves them empty.
    """
    if isinstance(which, int):
        run_dir.in_use.add(which)
        return Loaded(_load_exact(run_dir, which, weights_only), which)
    first, skipped = _resolve_pointer(run_dir, which)
    later = [step for step in reversed(run_dir.steps()) if step != first]
    for step in later if first is None else [first, *later]:
        try:
            checkpoint = _read(run_dir, step, weights_only)
        except StorageError as error:
            skipped.append(_skip_reason(run_dir, step, error))
            continue
        run_dir.in_use.add(step)
        if which == "best" and "best_loss" not in checkpoint.progress:  # never validated, so that none is missing
            skipped = [line for line in skipped if line != NO_POINTER.format(which)]
        skipped += _uncommitted(run_dir, step) if which == "latest" else []
        verb = "resuming from" if which == "latest" else "using"
        return Loaded(checkpoint, step, [f"{line}; {verb} {step_name(step)}" for line in skipped])
    path = escaped(str(run_dir.path), 500)
    raise CheckpointError(
        f"{path} has no valid checkpoint{': ' if skipped else ''}{'; '.join(skipped)}.",
        hint=f"Train it again: fabella train {quote(f'{path}/config.yaml')}"
        if skipped
        else f"Train it: fabella resume {quote(path)}",
    )


def require_own_start(run_dir: RunDir) -> None:
    """Raise CheckpointError for a run without checkpoints that began with the weights of another one."""
    origin = run_dir.manifest.get(INIT_FROM)
    if isinstance(origin, dict):
        path = escaped(str(run_dir.path), 500)
        raise CheckpointError(
            f"{path} has no checkpoint, not even that of step 0 with the weights it began with: those of "
            f"{escaped(str(origin.get('run')))}, step {origin.get('step')}.",
            hint=f"Start it again: fabella train {quote(f'{path}/config.yaml')} --init-from RUN --out {quote(path)}-2",
        )


def latest_scheduled(run_dir: RunDir) -> Loaded | None:
    """Return the last valid checkpoint that was saved because the config demands it; None if there is none."""
    for step in reversed(_scheduled(run_dir)):
        if is_complete(run_dir, step):
            try:
                return load(run_dir, step)
            except StorageError:  # damaged: the one before is a valid target as well
                continue
    return None


def _scheduled(run_dir: RunDir) -> list[int]:
    return [step for step in run_dir.steps() if is_marked(run_dir, step, "scheduled")]


def is_marked(run_dir: RunDir, step: int, mark: str) -> bool:
    """Return whether a checkpoint has the ``mark`` ``scheduled`` or ``keep``; False without a valid manifest."""
    try:
        return read_manifest(run_dir.checkpoints / step_name(step)).get(mark) is True
    except StorageError:
        return False


def latest_valid_step(run_dir: RunDir) -> int | None:
    """Return the last step with a complete checkpoint; ``load`` also checks every byte."""
    return next((step for step in reversed(run_dir.steps()) if is_complete(run_dir, step)), None)


def start_step(run_dir: RunDir) -> int:
    """Return the step that resuming starts from: ``latest`` if it is complete, else the last complete one, else 0."""
    latest = _pointer_or_none(run_dir, "latest")
    return latest if latest is not None and is_complete(run_dir, latest) else latest_valid_step(run_dir) or 0


def is_complete(run_dir: RunDir, step: int) -> bool:
    """Return True if the manifest of a checkpoint is valid and all its files have their full size."""
    path = run_dir.checkpoints / step_name(step)
    try:
        manifest = read_manifest(path)
        for name in manifest_entries(path, manifest):
            require_size(path, manifest, name)
    except StorageError:
        return False
    return True


def _load_exact(run_dir: RunDir, step: int, weights_only: bool) -> Checkpoint:
    try:
        return _read(run_dir, step, weights_only)
    except StorageError as error:
        others = [step_name(other) for other in run_dir.steps() if other != step and is_complete(run_dir, other)]
        hint = f"Other checkpoints of this run: {', '.join(others)}." if others else ""
        if not (run_dir.checkpoints / step_name(step)).exists():
            raise CheckpointError(f"{escaped(str(run_dir.path), 500)} has no {step_name(step)}.", hint=hint) from None
        raise CheckpointError(error.message, hint=hint or error.hint) from error


def _resolve_pointer(run_dir: RunDir, which: str) -> tuple[int | None, list[str]]:
    """Return the step that ``latest`` or ``best`` points to, and warnings if it points to none."""
    try:
        step = run_dir.read_pointer(which)
    except StorageError as error:
        return None, [f"ignoring {which} ({error.message.rstrip('.')})"]
    if step is None:
        return None, [NO_POINTER.format(which)] if run_dir.steps() else []
    if step not in run_dir.steps():
        return None, [f"ignoring {which} ({step_name(step)} does not exist)"]
    return step, []


def _skip_reason(run_dir: RunDir, step: int, error: StorageError) -> str:
    if not (run_dir.checkpoints / step_name(step) / MANIFEST).exists():
        return f"ignoring incomplete {step_name(step)} (no manifest)"
    return f"ignoring damaged {step_name(step)} ({error.message.rstrip('.')})"


def _uncommitted(run_dir: RunDir, loaded: int) -> list[str]:
    """Return a warning for each later checkpoint that a killed process did not commit."""
    temps = [(parse_step(name), path) for name, path in find_stale_temps(run_dir.checkpoints)]
    return [
        f"ignoring incomplete {step_name(step)} ({'never committed' if (path / MANIFEST).exists() else 'no manifest'})"
        for step, path in temps
        if step is not None and step > loaded
    ]


def _pointer_or_none(run_dir: RunDir, which: str) -> int | None:
    """Return the step of a pointer for pruning; None if it is invalid, which ``load`` reports."""
    try:
        return run_dir.read_pointer(which)
    except CheckpointError:
        return None


def _read(run_dir: RunDir, step: int, weights_only: bool) -> Checkpoint:
    """Read one checkpoint; nothing of it is used before all of it is checked."""
    path = run_dir.checkpoints / step_name(step)
    manifest = read_manifest(path)
    values = checkpoint_validation.parse_state(
        read_verified(path, manifest, STATE), step=step, where=f"{path.name}/{STATE}"
    )
    table = run_dir.run.model.parameters()
    weights = load_tensors(read_verified(path, manifest, MODEL), where=f"{path.name}/{MODEL}")
    weights = checkpoint_validation.checked_weights(weights, table, where=f"{path.name}/{MODEL}")
    moments: Mapping[str, Any] = {}
    average: Mapping[str, Any] = {}
    if not weights_only:
        for name in manifest_entries(path, manifest):
            require_size(path, manifest, name)
        average = _read_average(run_dir, path, manifest, values["scalars"])
        moments = load_tensors(read_verified(path, manifest, OPTIMIZER), where=f"{path.name}/{OPTIMIZER}")
        spec, kinds = state_spec(run_dir.run.trainable_parameters, run_dir.run.optimizer), values["optimizer_state"]
        if values.get("optimizer", run_dir.run.optimizer.kind) != run_dir.run.optimizer.kind:
            moments = moments if set(moments) == set(spec) else {}  # of the optimizer before a change
            kinds = checkpoint_validation.moment_kinds(moments)
        moments = checkpoint_validation.checked_moments(moments, spec, where=f"{path.name}/{OPTIMIZER}", kinds=kinds)
    return Checkpoint(State(weights, moments, values["scalars"], average), values["progress"])


def _read_average(
    run_dir: RunDir, path: Path, manifest: Mapping[str, Any], scalars: Mapping[str, int | float]
) -> Mapping[str, Any]:
    """Return the average of a checkpoint; empty if it has none. Raises CheckpointError if state.json differs."""
    where, average = f"{path.name}/{AVERAGE}", dict[str, Any]()
    if AVERAGE in manifest_entries(path, manifest):
        average = load_tensors(read_verified(path, manifest, AVERAGE), where=where)
    return checkpoint_validation.checked_average(average, run_dir.run.trainable_parameters, scalars, where=where)
