"""A step that could not be taken, kept whole: its batch, its learning rate, and the engine's state before it.

``RUN/failures/step-00001234/``: model.safetensors, optimizer.safetensors, batch.safetensors, state.json, manifest.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fabella.data.batches import Batch
from fabella.engine.engine import State
from fabella.errors import CheckpointError
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import Shape
from fabella.runs import checkpoint_validation
from fabella.runs.checkpoint import MODEL, OPTIMIZER, STATE
from fabella.runs.run_dir import RunDir, parse_step, step_name
from fabella.runs.safetensors_io import dump_tensors, load_tensors
from fabella.storage import MANIFEST, atomic_dir, escaped, read_manifest, read_verified, remove_dir, write_chunks

FAILURES, BATCH = "failures", "batch.safetensors"
KEPT = 3
"""The first is what went wrong; further ones tell whether it goes wrong in the same place again."""


@dataclass(frozen=True, slots=True)
class FailedStepRecord:
    """What taking a step again needs. ``step`` counts from 1; ``state`` is that of the step before."""

    step: int
    state: State
    batch: Batch
    lr: float
    error: str


def path_for(folder: RunDir, step: int) -> Path:
    """Where the failure of ``step`` is kept."""
    return folder.path / FAILURES / step_name(step)


def save(folder: RunDir, failure: FailedStepRecord) -> Path:
    """Write the failure and return its folder; of all failures of the run the newest KEPT steps stay.

    Raises StorageError where it cannot be written; then nothing half is left. Call it under ``folder.lock()``.
    """
    target = path_for(folder, failure.step)
    state = {
        "format": checkpoint_validation.FORMAT,
        "step": failure.step,
        "moments": checkpoint_validation.moment_kinds(failure.state.optimizer_state),
        "numbers": dict(failure.state.scalars),
        "progress": {"lr": failure.lr, "error": failure.error},
    }
    with atomic_dir(target, replace=True) as aside:
        write_chunks(aside / MODEL, dump_tensors(failure.state.weights))
        write_chunks(aside / OPTIMIZER, dump_tensors(failure.state.optimizer_state))
        write_chunks(aside / BATCH, dump_tensors({"tokens": failure.batch.tokens, "targets": failure.batch.targets}))
        write_chunks(aside / STATE, [json.dumps(state, indent=1, allow_nan=False).encode()])
        write_chunks(
            aside / MANIFEST, [json.dumps({"format": checkpoint_validation.FORMAT, "step": failure.step}).encode()]
        )
    others = sorted(path for path in target.parent.iterdir() if parse_step(path.name) not in {None, failure.step})
    for path in others[: max(len(others) + 1 - KEPT, 0)]:
        remove_dir(path)
    return target


def read(path: Path, table: ParameterTable, spec: Mapping[str, Shape]) -> FailedStepRecord:
    """The failure in ``path``, every byte checked. Raises CheckpointError where it is none, or damaged."""
    step = parse_step(path.name)
    if step is None or path.parent.name != FAILURES:
        raise CheckpointError(
            f"{escaped(str(path), 500)} is no step that was kept.", hint=f"Give RUN/{FAILURES}/{step_name(1234)}."
        )
    manifest = read_manifest(path)
    values = checkpoint_validation.state_of(
        read_verified(path, manifest, STATE), step=step, where=f"{path.name}/{STATE}"
    )
    weights = load_tensors(read_verified(path, manifest, MODEL), where=f"{path.name}/{MODEL}")
    moments = load_tensors(read_verified(path, manifest, OPTIMIZER), where=f"{path.name}/{OPTIMIZER}")
    arrays = load_tensors(read_verified(path, manifest, BATCH), where=f"{path.name}/{BATCH}")
    lr, error = values["progress"].get("lr"), values["progress"].get("error")
    if set(arrays) != {"tokens", "targets"} or not isinstance(lr, float) or not isinstance(error, str):
        raise CheckpointError(f"{path.name}: damaged: tokens, targets, lr or error are missing or of another kind.")
    state = State(
        checkpoint_validation.checked_weights(weights, table, where=f"{path.name}/{MODEL}"),
        checkpoint_validation.checked_moments(
            moments, spec, where=f"{path.name}/{OPTIMIZER}", kinds=values["moments"]
        ),
        values["numbers"],
    )
    return FailedStepRecord(step, state, Batch(arrays["tokens"], arrays["targets"]), lr, error)
