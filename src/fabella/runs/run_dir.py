"""A run's folder: made once, opened by everything that comes later, held by the one process that trains."""

import hashlib
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.errors import CheckpointError, ConfigError, StorageError
from fabella.run_config.files import LARGEST_FILE_BYTES, parse_yaml, to_yaml, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.safetensors_io import is_pickle
from fabella.storage import (
    MANIFEST,
    atomic_dir,
    atomic_write,
    dump_manifest,
    escaped,
    locked,
    make_folders,
    read_manifest,
    remove_stale_temps,
    restore_replaced,
    storage_errors,
)
from fabella.tokenizers.tokenizer import Tokenizer

FORMAT = 2
"""Format number of run directories and checkpoints. Others are refused: nothing was released with an older one."""
CONFIG = "config.yaml"
DIGEST_LINE = "# sha256 of the lines above: "
# What lies in a folder whose making was cut short before config.yaml, the last thing written, was there.
UNFINISHED = {".lock", MANIFEST, "tokenizer"}
STEP = re.compile(r"step-([0-9]{8,12})")
LONGEST_POINTER_BYTES = 64
LONGEST_PATH = 500


def require_format(format_number: object, *, where: str) -> None:
    """Raise CheckpointError unless ``where`` was written in the format that this version reads."""
    if type(format_number) is not int or format_number != FORMAT:
        raise CheckpointError(
            f"{where} was written in format {escaped(str(format_number))}; this version of Fabella reads format {FORMAT}.",
            hint="Use the version of Fabella that wrote it, or train the model again.",
        )


def step_name(step: int) -> str:
    """``step-00001000``"""
    return f"step-{step:08d}"


def parse_step(name: str) -> int | None:
    """The step of a checkpoint's name; None for what is none."""
    match = STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where a run lies, what it is, and what it was made with."""

    path: Path
    run: RunConfig
    manifest: Mapping[str, Any]
    in_use: set[int] = field(default_factory=set[int], compare=False)
    """Steps whose checkpoints this process has loaded: pruning leaves them, for a training went on from there."""

    @classmethod
    def create(cls, path: Path, run: RunConfig, manifest: Mapping[str, Any]) -> "RunDir":
        """Make the folder of a new run. ``manifest``: versions, hardware, fingerprints; JSON values only.

        Raises StorageError where ``path`` holds a run or anything foreign, LockedError where it is in use.
        """
        with storage_errors(path, f"making run folder {escaped(path.name)}"):
            make_folders(path)
        with locked(path, briefly=True):
            _refuse_occupied(path)
            atomic_write(path / MANIFEST, dump_manifest({**manifest, "format": FORMAT}))
            atomic_write(path / CONFIG, _signed(run))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """The run in ``path``. Raises CheckpointError where there is none, or its config or manifest is damaged."""
        _refuse_no_folder(path)
        if not (path / CONFIG).is_file():
            _read_run(path / CONFIG)
        try:
            manifest = read_manifest(path)
        except StorageError as error:
            raise CheckpointError(error.message, hint="Restore it from a copy of the run.") from None
        require_format(manifest.get("format"), where=_shown(path))
        return cls(path, _read_run(path / CONFIG), manifest)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Hold the run for this process. Raises LockedError where another trains it.

        A checkpoint that was being replaced when its writer was killed is put back first.
        """
        with locked(self.path):
            remove_stale_temps(self.path)
            restore_replaced(self.checkpoints)
            yield

    def with_config(self, run: RunConfig) -> "RunDir":
        """The folder with a changed config, saved whole: what a resumed run goes on with."""
        atomic_write(self.path / CONFIG, _signed(run))
        return replace(self, run=run)

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Keep a copy of the tokenizer, whole, so that this folder alone can generate."""
        target = self.path / "tokenizer"
        with atomic_dir(target, replace=True) as aside, storage_errors(target, "writing the tokenizer"):
            tokenizer.save(aside)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Steps of all checkpoints that are there, whole or not, oldest first."""
        with storage_errors(self.checkpoints, "reading the checkpoints"):
            names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []  # noqa: PTH208 - names, not paths
        return sorted(step for name in names if (step := parse_step(name)) is not None)

    def read_pointer(self, name: str) -> int | None:
        """The step that ``latest`` or ``best`` names, None where there is no such file.

        Raises CheckpointError where it names no checkpoint; whether that checkpoint is there is another question.
        """
        path = self.path / name
        if not os.path.lexists(path):
            return None
        with storage_errors(path, f"reading {name}"), path.open("rb") as file:
            text = file.read(LONGEST_POINTER_BYTES + 1).decode("utf-8", "backslashreplace")
        step = parse_step(text.removesuffix("\n"))
        if step is None:
            raise CheckpointError(f"{name} names no checkpoint: '{escaped(text)}'.")
        return step

    def set_pointer(self, name: str, step: int) -> None:
        """Let ``latest`` or ``best`` name the checkpoint of ``step``."""
        atomic_write(self.path / name, f"{step_name(step)}\n".encode())


def _shown(path: Path) -> str:
    return escaped(str(path), LONGEST_PATH)


def require_empty(path: Path) -> None:
    """Raises StorageError where ``path`` holds a run or anything foreign: to be asked before long work for a new run.

    ``RunFolder.create`` asks again: another process may have come in between.
    """
    if path.is_dir():
        _refuse_occupied(path)
    elif os.path.lexists(path):
        raise StorageError(f"{_shown(path)} is a file.", hint="Choose a new or an empty folder for --out.")


def _refuse_occupied(path: Path) -> None:
    """What a killed ``create`` left is taken over; a run, or anything that is none of ours, is not."""
    remove_stale_temps(path)
    if (path / CONFIG).exists():
        raise StorageError(
            f"{_shown(path)} holds a run already.",
            hint=f"Go on with it (fabella resume {quote(_shown(path))}), or choose another --out.",
        )
    foreign = sorted(item.name for item in path.iterdir() if item.name not in UNFINISHED)
    if foreign:
        more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise StorageError(
            f"{_shown(path)} is not empty, and no run: it holds {escaped(foreign[0])}{more}.",
            hint="Choose a new or an empty folder for --out.",
        )


def _refuse_no_folder(path: Path) -> None:
    if path.is_dir():
        if (path / CONFIG).is_file():
            return
        raise CheckpointError(f"{_shown(path)} is no run folder: it has no {CONFIG}.", hint="Give the folder of a run.")
    if not path.exists():
        raise CheckpointError(f"There is no run folder {_shown(path)}.", hint="Train one: fabella train --out FOLDER.")
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        pickled = is_pickle(file.read(16))
    if pickled:
        raise CheckpointError(
            f"{_shown(path)}: refusing pickle: it may hold code that runs when it is read.",
            hint="Give the folder of a run.",
        )
    raise CheckpointError(f"{_shown(path)} is a file, no run folder.", hint="Give the folder of a run.")


def _signed(run: RunConfig) -> bytes:
    text = to_yaml(run).encode()
    return text + f"{DIGEST_LINE}{hashlib.sha256(text).hexdigest()}\n".encode()


def _read_run(path: Path) -> RunConfig:
    """The config, proven unchanged by its last line, then checked like any other config."""
    with storage_errors(path, f"reading {CONFIG}"), path.open("rb") as file:
        data = file.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise CheckpointError(f"{_shown(path)} is larger than {LARGEST_FILE_BYTES:,} bytes, too large for a config.")
    text, line, digest = data.rpartition(DIGEST_LINE.encode())
    if not line or digest.decode("latin-1") != hashlib.sha256(text).hexdigest() + "\n":
        raise CheckpointError(
            f"{_shown(path)} was changed after it was written: its lines do not match the sha256 in its last line.",
            hint="Restore it; to change settings, give them to fabella resume, or begin a new run from this file.",
        )
    try:
        return validate_config(parse_yaml(text.decode(), where=_shown(path)))
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{_shown(path)} is no config of a run: {escaped(str(error), 1000)}") from None
