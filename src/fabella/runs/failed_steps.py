"""Records of failed steps: the batch, the learning rate and the engine state before the step.

``RUN/failures/step-00001234/``: model.safetensors, optimizer.safetensors, batch.safetensors, state.json, manifest.json.
An average of the weights is not saved: the step does not depend on it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fabella.data.batches import Batch
from fabella.engine.engine import State
from fabella.errors import CheckpointError
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import Shape
from fabella.runs import checkpoint_validation
from fabella.runs.checkpoint import MODEL, OPTIMIZER, STATE
from fabella.runs.run_dir import FORMAT, RunDir, parse_step, step_name
from fabella.runs.safetensors_io import dump_tensors, load_tensors
from fabella.storage import (
    MANIFEST,
    atomic_dir,
    escaped,
    read_manifest,
    read_verified,
    recognize,
    remove_dir,
    write_chunks,
)

FAILURES, BATCH = "failures", "batch.safetensors"
KEEP_LAST = 3
"""Records kept per run: a repetition shows whether the same step fails again."""


@dataclass(frozen=True, slots=True)
class FailedStepRecord:
    """Everything needed to repeat a failed step. ``step`` counts from 1; ``state`` is the state before that step."""

    step: int
    state: State
    batch: Batch
    lr: float
    error: str


def path_for(run_dir: RunDir, step: int) -> Path:
    """Return the directory of the record of ``step``."""
    return run_dir.path / FAILURES / step_name(step)


def save(run_dir: RunDir, failure: FailedStepRecord) -> Path:
    """Write a record and return its directory; of all records of the run the last KEEP_LAST stay.

    Raises StorageError; then no partial files are left. Call it under ``run_dir.lock()``.
    """
    target = path_for(run_dir, failure.step)
    state = {
        "format": FORMAT,
        "step": failure.step,
        "optimizer_state": checkpoint_validation.moment_kinds(failure.state.optimizer_state),
        "scalars": dict(failure.state.scalars),
        "progress": {"lr": failure.lr, "error": failure.error},
    }
    with atomic_dir(target, replace=True) as temp:
        write_chunks(temp / MODEL, dump_tensors(failure.state.weights))
        write_chunks(temp / OPTIMIZER, dump_tensors(failure.state.optimizer_state))
        write_chunks(temp / BATCH, dump_tensors(failure.batch.arrays()))
        write_chunks(temp / STATE, [json.dumps(state, indent=1, allow_nan=False).encode()])
        write_chunks(temp / MANIFEST, [json.dumps({"format": FORMAT, "step": failure.step}).encode()])
    others = sorted(path for path in target.parent.iterdir() if parse_step(path.name) not in {None, failure.step})
    for path in others[: max(len(others) + 1 - KEEP_LAST, 0)]:
        remove_dir(path)
    return target


def require_failed_step(path: Path) -> None:
    """Raise CheckpointError for any path but RUN/failures/step-…; the hint names those of a run."""
    if parse_step(path.name) is not None and path.absolute().parent.name == FAILURES:
        return
    run = path.parent if path.name == FAILURES else path
    steps = sorted(step for step in (run / FAILURES).glob("step-*") if parse_step(step.name) is not None)
    given = quote(escaped(str(steps[-1]), 500)) if steps else f"RUN/{FAILURES}/{step_name(1234)}"
    hint = f"Replay it with: fabella replay-step {given}" if steps else f"Give {given}."
    none = " It has no failed steps." if not steps and recognize(run) else ""
    raise CheckpointError(f"{escaped(str(path), 500)} is not a failed step.{none}", hint=hint)


def read(path: Path, table: ParameterTable, spec: Mapping[str, Shape]) -> FailedStepRecord:
    """Return the record in ``path`` after checking every byte. Raises CheckpointError if it is invalid or damaged."""
    require_failed_step(path)
    step = int(path.name.removeprefix("step-"))
    manifest = read_manifest(path)
    values = checkpoint_validation.parse_state(
        read_verified(path, manifest, STATE), step=step, where=f"{path.name}/{STATE}"
    )
    weights = load_tensors(read_verified(path, manifest, MODEL), where=f"{path.name}/{MODEL}")
    moments = load_tensors(read_verified(path, manifest, OPTIMIZER), where=f"{path.name}/{OPTIMIZER}")
    arrays = load_tensors(read_verified(path, manifest, BATCH), where=f"{path.name}/{BATCH}")
    lr, error = values["progress"].get("lr"), values["progress"].get("error")
    known = set(arrays) - {"document_starts"} == {"tokens", "targets"}
    if not known or not isinstance(lr, float) or not isinstance(error, str):
        raise CheckpointError(f"{path.name}: damaged: tokens, targets, lr or error is missing or of another type.")
    state = State(
        checkpoint_validation.checked_weights(weights, table, where=f"{path.name}/{MODEL}"),
        checkpoint_validation.checked_moments(
            moments, spec, where=f"{path.name}/{OPTIMIZER}", kinds=values["optimizer_state"]
        ),
        values["scalars"],
    )
    return FailedStepRecord(step, state, Batch.of(arrays), lr, error)
