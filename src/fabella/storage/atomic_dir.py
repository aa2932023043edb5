"""Atomic write of a directory, with a manifest of its files."""

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabella.errors import StorageError
from fabella.storage.atomic_file import write_all
from fabella.storage.manifest import MANIFEST, dump_manifest
from fabella.storage.messages import escaped, escaped_path, free_if_known, storage_errors
from fabella.storage.temp_files import (
    BINARY,
    FSYNC_FLAGS,
    create_temp_dir,
    fsync_dir,
    make_dirs,
    remove_stale_in,
    temp_path,
    try_lock,
)


@contextmanager
def atomic_dir(target: Path, *, replace: bool = False, needed: int = 0) -> Generator[Path]:
    """Yield an empty temporary directory that becomes ``target`` when the block ends without an error.

    ``manifest.json`` gets ``files`` (size and sha256 of each file), merged into the manifest written in the block, if
    any. ``needed`` is the total size in bytes for the error of a full disk; 0 if unknown.
    Raises StorageError if ``target`` exists, unless ``replace``: then the old directory stays until the rename.
    """
    _require_absent(target, replace)
    action, free = f"writing {escaped(target.name)}", free_if_known(target)
    with storage_errors(target, action, needed=needed, free=free):
        make_dirs(target.parent)
        remove_stale_in(target.parent, target.name)
        temp, lock = create_temp_dir(target)
    try:
        yield temp
        with storage_errors(target, action, needed=needed, free=free):
            _seal(temp)
            _require_absent(target, replace)
            _commit(temp, target)
    finally:
        # The commit has renamed the temporary. After an error it is removed here, or later by remove_stale_temps.
        shutil.rmtree(temp, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_dir(path: Path) -> None:
    """Delete a directory atomically: rename it to a temporary name first. Raises StorageError."""
    with storage_errors(path, f"removing {escaped(path.name)}"):
        lock = try_lock(path)
        try:
            temp = temp_path(path, "partial")
            path.rename(temp)
            fsync_dir(path.parent)
            shutil.rmtree(temp)
        finally:
            if lock is not None:
                os.close(lock)


def _require_absent(target: Path, replace: bool) -> None:
    if os.path.lexists(target) and not replace:
        raise StorageError(f"{escaped_path(target)} exists already.", hint="Choose another path, or remove it.")


def _seal(path: Path) -> None:
    """Make all files of a directory durable, then write its manifest."""
    manifest: dict[str, Any] = {}
    if (path / MANIFEST).exists():
        manifest = json.loads((path / MANIFEST).read_bytes())
        (path / MANIFEST).unlink()
    paths = sorted(path.rglob("*"))
    subdirectories = [item for item in paths if item.is_dir() and not item.is_symlink()]
    files = [item for item in paths if not item.is_dir() or item.is_symlink()]
    entries = {file.relative_to(path).as_posix(): _durable_entry(file) for file in files}
    for subdirectory in reversed(subdirectories):
        fsync_dir(subdirectory)
    descriptor = os.open(path / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    try:
        write_all(descriptor, dump_manifest({**manifest, "files": entries}))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_dir(path)


def _durable_entry(path: Path) -> dict[str, int | str]:
    with os.fdopen(os.open(path, FSYNC_FLAGS), "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _commit(temp: Path, target: Path) -> None:
    """Rename ``temp`` to ``target``. An older target is renamed first; ``restore_replaced`` undoes it after a kill."""
    if not os.path.lexists(target):
        temp.rename(target)
        fsync_dir(target.parent)
        return
    lock = try_lock(target)
    older = temp_path(target, "replaced")
    try:
        target.rename(older)
        try:
            temp.rename(target)
        except BaseException:
            older.rename(target)
            raise
        fsync_dir(target.parent)
        shutil.rmtree(older)
    finally:
        if lock is not None:
            os.close(lock)
