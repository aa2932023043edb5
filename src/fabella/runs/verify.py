"""Prove a run folder whole: every byte that has a sha256, every pointer, every line, every name of a weight.

A folder of prepared data is proven too: every byte of its shards.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fabella.data.dataset import open_dataset
from fabella.errors import CheckpointError, DataError, FabellaError, StorageError
from fabella.runs.checkpoint import load
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import CONFIG, RunDir, step_name
from fabella.storage import escaped, find_stale_temps, storage_errors, verify_folder
from fabella.tokenizers import loading

POINTERS = ("latest", "best")
ROWS = ("metrics.jsonl", "samples.jsonl")


@dataclass(frozen=True, slots=True)
class Finding:
    """``damaged``: something cannot be trusted or used. ``remark``: worth knowing, and harmless."""

    level: Literal["damaged", "remark"]
    where: str
    problem: str


def verify(path: Path) -> list[Finding]:
    """Everything that is wrong with the run, or the prepared data, in ``path``; an empty list: it is whole."""
    if (path / "train").is_dir() and not (path / CONFIG).exists():
        return list(_prepared(path))
    try:
        folder = RunDir.open(path)
    except FabellaError as error:
        return [Finding("damaged", "run", str(error))]
    return [
        *_tokenizer(folder),
        *_checkpoints(folder),
        *_pointers(folder),
        *_rows(folder),
        *_data(folder),
        *_leftovers(folder),
    ]


def _prepared(path: Path) -> Iterator[Finding]:
    try:
        open_dataset(path, full=True)
    except FabellaError as error:
        yield Finding("damaged", "data", error.message)


def _tokenizer(folder: RunDir) -> Iterator[Finding]:
    place = folder.path / "tokenizer"
    try:
        verify_folder(place)
        tokenizer = loading.load(place)
    except FabellaError as error:
        yield Finding("damaged", "tokenizer", error.message)
        return
    expected = folder.manifest.get("tokenizer")
    if expected is not None and tokenizer.fingerprint != expected:
        yield Finding("damaged", "tokenizer", "it is not the one that the run began with: its fingerprint differs.")
    if tokenizer.vocab_size > folder.run.model.vocab_size:
        rows = folder.run.model.vocab_size
        yield Finding("damaged", "tokenizer", f"it has {tokenizer.vocab_size:,} ids, the model rows for {rows:,}.")


def _checkpoints(folder: RunDir) -> Iterator[Finding]:
    steps = folder.steps()
    if not steps:
        yield Finding("remark", "checkpoints", "there are none yet.")
    for step in steps:
        try:
            load(folder, step)
        except StorageError as error:
            yield Finding("damaged", step_name(step), error.message)


def _pointers(folder: RunDir) -> Iterator[Finding]:
    steps = folder.steps()
    for name in POINTERS:
        try:
            step = folder.read_pointer(name)
        except StorageError as error:
            yield Finding("damaged", name, error.message)
            continue
        if step is not None and step not in steps:
            yield Finding("damaged", name, f"it names {step_name(step)}, which is not there.")
        elif name == "latest" and step is None and steps:
            yield Finding("damaged", name, f"it is missing; the newest checkpoint is {step_name(steps[-1])}.")
        elif name == "latest" and step is not None and steps[-1] > step:
            yield Finding("remark", name, f"it names {step_name(step)}, and {step_name(steps[-1])} is there too.")


def _rows(folder: RunDir) -> Iterator[Finding]:
    for name in ROWS:
        path = folder.path / name
        try:
            read_rows(path)
            torn = _is_torn(path)
        except (CheckpointError, StorageError) as error:
            yield Finding("damaged", name, error.message)
            continue
        if torn:
            yield Finding("remark", name, "its last line is torn: its writer was killed. Resuming drops it.")


def _is_torn(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with storage_errors(path, f"reading {path.name}"), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _data(folder: RunDir) -> Iterator[Finding]:
    """The prepared data may lie elsewhere: without it the run still generates, and with the wrong data it is told."""
    reference: Any = folder.manifest.get("data")
    if not isinstance(reference, dict) or not isinstance(reference.get("folder"), str):
        return
    place = (folder.path / reference["folder"]).resolve()
    if not place.exists():
        yield Finding("remark", "data", f"{escaped(str(place), 500)} is gone; resuming needs it.")
        return
    try:
        fingerprint = open_dataset(place).fingerprint
    except (DataError, StorageError) as error:
        yield Finding("damaged", "data", error.message)
        return
    if fingerprint != reference.get("fingerprint"):
        yield Finding("damaged", "data", f"{escaped(str(place), 500)} is not the data that the run began with.")


def _leftovers(folder: RunDir) -> Iterator[Finding]:
    for parent in (folder.path, folder.checkpoints):
        for name, _ in find_stale_temps(parent) if parent.is_dir() else []:
            problem = "a killed process left it unfinished. The next save removes it."
            yield Finding("remark", escaped(name), problem)
