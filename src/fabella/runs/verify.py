"""Verify the checksums, pointers, log lines and parameter names of a run directory, or the shards of a dataset."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fabella.data.dataset import open_dataset
from fabella.errors import CheckpointError, DataError, FabellaError, StorageError, UnknownFamilyError
from fabella.runs.branch import model_sha256, parent_of
from fabella.runs.checkpoint import is_complete, load
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import CONFIG, INIT_FROM, PARENT, RunDir, step_name
from fabella.storage import escaped, find_stale_temps, recognize, storage_errors, verify_dir
from fabella.storage.recognize import RUN, runs_in
from fabella.tokenizers import loading

POINTERS = ("latest", "best")
ROWS = ("metrics.jsonl", "samples.jsonl")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``damaged``: cannot be used. ``unknown``: cannot be verified here. ``remark``: harmless."""

    level: Literal["damaged", "unknown", "remark"]
    where: str
    problem: str


def verify(path: str | Path) -> list[Finding]:
    """Return all findings about the run or the dataset in ``path``; an empty list if everything is valid.

    Raise CheckpointError for a path that is known to be something else, as a checkpoint or a directory of runs.
    """
    path = Path(path)
    if (path / "train").is_dir() and not (path / CONFIG).exists():
        return list(_prepared(path))
    try:
        run_dir = RunDir.open(path)
    except UnknownFamilyError as error:
        return [Finding("unknown", "family", str(error))]
    except FabellaError as error:
        known = recognize(path)
        if runs_in(path) or (known and known.kind != RUN):
            raise  # a wrong path, not a damaged run
        return [Finding("damaged", "run", str(error))]
    return [
        *_tokenizer(run_dir),
        *_parent(run_dir),
        *_checkpoints(run_dir),
        *_pointers(run_dir),
        *_rows(run_dir),
        *_data(run_dir),
        *_leftovers(run_dir),
    ]


def _prepared(path: Path) -> Iterator[Finding]:
    try:
        open_dataset(path, full=True)
    except FabellaError as error:
        yield Finding("damaged", "data", error.message)


def _tokenizer(run_dir: RunDir) -> Iterator[Finding]:
    path = run_dir.path / "tokenizer"
    try:
        verify_dir(path)
        tokenizer = loading.load(path)
    except FabellaError as error:
        yield Finding("damaged", "tokenizer", error.message)
        return
    expected = run_dir.manifest.get("tokenizer")
    if expected is not None and tokenizer.fingerprint != expected:
        yield Finding("damaged", "tokenizer", "not the tokenizer that the run started with: its fingerprint differs.")
    if tokenizer.vocab_size > run_dir.run.model.vocab_size:
        rows = run_dir.run.model.vocab_size
        yield Finding("damaged", "tokenizer", f"it has {tokenizer.vocab_size:,} ids, but the model only {rows:,} rows.")


def _parent(run_dir: RunDir) -> Iterator[Finding]:
    """Compare the weights that the run began with, where they still exist, with the sha256 in its manifest."""
    for key, words in ((INIT_FROM, "the run began with the weights of"), (PARENT, "the run is a branch of")):
        parent = parent_of(run_dir.manifest, key)
        if not parent:
            continue
        entry = run_dir.manifest[key]
        step = 0 if key == INIT_FROM else entry["step"]
        if (
            step in run_dir.steps()
            and is_complete(run_dir, step)
            and model_sha256(run_dir, step) != entry.get("model_sha256")
        ):
            yield Finding("damaged", step_name(step), f"its weights are not those of {parent}.")
        yield Finding("remark", "parent", f"{words} {parent}.")


def _checkpoints(run_dir: RunDir) -> Iterator[Finding]:
    steps = run_dir.steps()
    if not steps:
        yield Finding("remark", "checkpoints", "no checkpoints yet.")
    for step in steps:
        try:
            load(run_dir, step)
        except StorageError as error:
            yield Finding("damaged", step_name(step), error.message)


def _pointers(run_dir: RunDir) -> Iterator[Finding]:
    steps = run_dir.steps()
    for name in POINTERS:
        try:
            step = run_dir.read_pointer(name)
        except StorageError as error:
            yield Finding("damaged", name, error.message)
            continue
        if step is not None and step not in steps:
            yield Finding("damaged", name, f"points to {step_name(step)}, which does not exist.")
        elif name == "latest" and step is None and steps:
            yield Finding("damaged", name, f"missing; the last checkpoint is {step_name(steps[-1])}.")
        elif name == "latest" and step is not None and steps[-1] > step:
            yield Finding("remark", name, f"points to {step_name(step)}, but {step_name(steps[-1])} exists as well.")


def _rows(run_dir: RunDir) -> Iterator[Finding]:
    for name in ROWS:
        path = run_dir.path / name
        try:
            read_rows(path)
            incomplete = _ends_incomplete(path)
        except (CheckpointError, StorageError) as error:
            yield Finding("damaged", name, error.message)
            continue
        if incomplete:
            yield Finding("remark", name, "its last line is incomplete: its writer was killed. Resuming drops it.")


def _ends_incomplete(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with storage_errors(path, f"reading {path.name}"), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _data(run_dir: RunDir) -> Iterator[Finding]:
    """Check the dataset of the run, which may be in another directory. A missing one is harmless: the run generates."""
    reference: Any = run_dir.manifest.get("data")
    if not isinstance(reference, dict) or not isinstance(reference.get("folder"), str):
        return
    path = (run_dir.path / reference["folder"]).resolve()
    if not path.exists():
        yield Finding("remark", "data", f"{escaped(str(path), 500)} does not exist; resuming needs it.")
        return
    try:
        fingerprint = open_dataset(path).fingerprint
    except (DataError, StorageError) as error:
        yield Finding("damaged", "data", error.message)
        return
    if fingerprint != reference.get("fingerprint"):
        yield Finding("damaged", "data", f"{escaped(str(path), 500)} is not the dataset that the run started with.")


def _leftovers(run_dir: RunDir) -> Iterator[Finding]:
    for parent in (run_dir.path, run_dir.checkpoints):
        for name, _ in find_stale_temps(parent) if parent.is_dir() else []:
            problem = "an incomplete file of a killed process. The next save removes it."
            yield Finding("remark", escaped(name), problem)
