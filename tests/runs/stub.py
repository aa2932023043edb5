"""The smallest run, with its checkpoints and directory: a few kilobytes, written without an engine."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fabella.engine.engine import State
from fabella.models.parameters import ParameterTable, initial_weights
from fabella.optim.registry import state_spec
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, save
from fabella.runs.run_dir import RunDir
from fabella.tokenizers.bytes import ByteTokenizer

VALUES: dict[str, Any] = {
    "name": "smallest",
    "model": {
        "family": "llama",
        "vocab_size": 256,
        "context_length": 8,
        "dim": 2,
        "layers": 1,
        "heads": 1,
        "kv_heads": 1,
        "ffn_dim": 2,
    },
    "tokenizer": {"kind": "bytes"},
    "data": {"sequences": {"kind": "packed", "length": 8, "stride": 6}},
    "optimizer": {"kind": "adamw", "lr": 0.001},
    "training": {"length": {"max_steps": 1000}, "micro_batch_size": 1},
    "checkpoint": {"every_steps": 10, "keep_last": 2},
}
RUN: RunConfig = validate_config(VALUES)
TABLE = RUN.model.parameters()
SPEC = state_spec(TABLE, RUN.optimizer)
MANIFEST = {"environment": {"fabella": "0.1.0"}, "tokenizer": ByteTokenizer().fingerprint}


def keeping(count: int) -> RunConfig:
    """Return the config with another ``checkpoint.keep_last``."""
    return RUN.model_copy(update={"checkpoint": RUN.checkpoint.model_copy(update={"keep_last": count})})


def checkpoint(step: int, table: ParameterTable = TABLE) -> Checkpoint:
    """Return a checkpoint whose values depend on the step."""
    weights = initial_weights(table, seed=step)
    moments = {f"{kind}.{name}": array * 0.5 for kind in ("first", "second") for name, array in weights.items()}
    progress = {"step": step, "sequences": 3 * step, "tokens": 24 * step, "best_loss": 1.0 / (step + 1)}
    return Checkpoint(State(weights, moments, {"step": step, "loss_scale": 2.0**16}), progress)


def folder(path: Path, steps: Sequence[int] = (), run: RunConfig = RUN) -> RunDir:
    """Create a run directory with checkpoints of ``steps``."""
    run_dir = RunDir.create(path, run, MANIFEST)
    for step in steps:
        save(run_dir, step, checkpoint(step))
    return run_dir


def copied(original: RunDir, path: Path) -> RunDir:
    """Return a copy of the run that a test may damage."""
    shutil.copytree(original.path, path)
    return dataclasses.replace(original, path=path, in_use=set())


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Return whether two checkpoints are equal bit for bit."""
    arrays = [(first.state.weights, second.state.weights), (first.state.optimizer_state, second.state.optimizer_state)]
    return (
        all(list(a) == list(b) for a, b in arrays)
        and all(np.array_equal(a[name].view(np.uint32), b[name].view(np.uint32)) for a, b in arrays for name in a)
        and (first.state.scalars, first.progress) == (second.state.scalars, second.progress)
    )


def contents(path: Path) -> dict[str, bytes]:
    """Return the content of every file below ``path``, except for the lock files."""
    return {
        item.relative_to(path).as_posix(): item.read_bytes()
        for item in sorted(path.rglob("*"))
        if item.is_file() and item.name not in {".lock", ".lock-holder"}
    }
