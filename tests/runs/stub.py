"""The smallest run, its checkpoints and its folder: a few kilobytes, made without an engine."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fabella.engine.engine import State
from fabella.models.parameters import Table, initial_weights
from fabella.run_config.files import run_from
from fabella.run_config.run import Run
from fabella.runs.checkpoint import Checkpoint, save
from fabella.runs.run_dir import RunFolder
from fabella.tokenizers.bytes import ByteTokenizer

VALUES: dict[str, Any] = {
    "name": "smallest",
    "model": {
        "family": "llama",
        "vocabulary": 256,
        "context": 8,
        "dim": 2,
        "layers": 1,
        "heads": 1,
        "kv_heads": 1,
        "hidden": 2,
    },
    "tokenizer": {"kind": "bytes"},
    "data": {"windows": {"kind": "chained", "length": 8, "stride": 6}},
    "optimizer": {"kind": "adamw", "lr": 0.001},
    "training": {"length": {"steps": 1000}, "micro_batch": 1},
    "checkpoint": {"every": 10, "keep": 2},
}
RUN: Run = run_from(VALUES)
TABLE = RUN.model.parameters()
MANIFEST = {"environment": {"fabella": "0.1.0"}, "tokenizer": ByteTokenizer().fingerprint}


def keeping(count: int) -> Run:
    """The run, with another number of checkpoints kept."""
    return RUN.model_copy(update={"checkpoint": RUN.checkpoint.model_copy(update={"keep": count})})


def checkpoint(step: int, table: Table = TABLE) -> Checkpoint:
    """A checkpoint that looks like no other step's."""
    weights = initial_weights(table, seed=step)
    moments = {f"{kind}.{name}": array * 0.5 for kind in ("first", "second") for name, array in weights.items()}
    progress = {"step": step, "windows": 3 * step, "tokens": 24 * step, "best_loss": 1.0 / (step + 1)}
    return Checkpoint(State(weights, moments, {"step": step, "loss_scale": 2.0**16}), progress)


def folder(path: Path, steps: Sequence[int] = (), run: Run = RUN) -> RunFolder:
    """A new run folder with the checkpoints of ``steps``."""
    made = RunFolder.create(path, run, MANIFEST)
    for step in steps:
        save(made, step, checkpoint(step))
    return made


def copied(original: RunFolder, path: Path) -> RunFolder:
    """A copy to be damaged."""
    shutil.copytree(original.path, path)
    return dataclasses.replace(original, path=path, in_use=set())


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are equal, bit for bit."""
    arrays = [(one.state.weights, other.state.weights), (one.state.moments, other.state.moments)]
    return (
        all(list(a) == list(b) for a, b in arrays)
        and all(np.array_equal(a[name].view(np.uint32), b[name].view(np.uint32)) for a, b in arrays for name in a)
        and (one.state.numbers, one.progress) == (other.state.numbers, other.progress)
    )


def contents(path: Path) -> dict[str, bytes]:
    """Every file below ``path``, but the lock's: what must be as it was."""
    return {
        item.relative_to(path).as_posix(): item.read_bytes()
        for item in sorted(path.rglob("*"))
        if item.is_file() and item.name != ".lock"
    }
