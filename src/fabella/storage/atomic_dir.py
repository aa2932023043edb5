"""A folder of files, whole or absent, with a manifest that proves it."""

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
from fabella.storage.messages import LONGEST_PATH, escaped, free_if_known, storage_errors
from fabella.storage.temp_files import create_temp_dir, fsync_folder, make_folders, remove_stale_in, temp_path, try_lock


@contextmanager
def atomic_dir(target: Path, *, replace: bool = False, needed: int = 0) -> Generator[Path]:
    """An empty folder aside that becomes ``target``, with a manifest, when the block ends without an error.

    ``manifest.json`` gets ``files`` (size and sha256 of each), merged into the one written in the block, if any.
    ``needed``: size of it all in bytes, where known, for the error of a full disk.
    Raises StorageError where ``target`` exists, unless ``replace``; the old one stays until the new one is whole.
    """
    _refuse_existing(target, replace)
    doing, free = f"writing {escaped(target.name)}", free_if_known(target)
    with storage_errors(target, doing, needed=needed, free=free):
        make_folders(target.parent)
        remove_stale_in(target.parent, target.name)
        aside, lock = create_temp_dir(target)
    try:
        yield aside
        with storage_errors(target, doing, needed=needed, free=free):
            _seal(aside)
            _refuse_existing(target, replace)
            _put_in_place(aside, target)
    finally:
        # After the commit nothing lies aside. After an error nothing may stay; what cannot go is clean_partial's.
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def remove_dir(folder: Path) -> None:
    """Delete a folder so that nobody ever sees half of it: renamed aside first."""
    with storage_errors(folder, f"removing {escaped(folder.name)}"):
        lock = try_lock(folder)
        try:
            aside = temp_path(folder, "partial")
            folder.rename(aside)
            fsync_folder(folder.parent)
            shutil.rmtree(aside)
        finally:
            if lock is not None:
                os.close(lock)


def _refuse_existing(target: Path, replace: bool) -> None:
    if os.path.lexists(target) and not replace:
        raise StorageError(
            f"{escaped(str(target), LONGEST_PATH)} exists already.", hint="Choose another place, or remove it."
        )


def _seal(folder: Path) -> None:
    """Make all that lies in ``folder`` durable, then write the manifest of it."""
    manifest: dict[str, Any] = {}
    if (folder / MANIFEST).exists():
        manifest = json.loads((folder / MANIFEST).read_bytes())
        (folder / MANIFEST).unlink()
    paths = sorted(folder.rglob("*"))
    subfolders = [path for path in paths if path.is_dir() and not path.is_symlink()]
    files = [path for path in paths if not path.is_dir() or path.is_symlink()]
    entries = {path.relative_to(folder).as_posix(): _durable_entry(path) for path in files}
    for subfolder in reversed(subfolders):
        fsync_folder(subfolder)
    descriptor = os.open(folder / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, dump_manifest({**manifest, "files": entries}))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_folder(folder)


def _durable_entry(path: Path) -> dict[str, int | str]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _put_in_place(aside: Path, target: Path) -> None:
    """Rename. An older target steps aside for it, and ``put_back`` restores that one if we die in between."""
    if not os.path.lexists(target):
        aside.rename(target)
        fsync_folder(target.parent)
        return
    lock = try_lock(target)
    older = temp_path(target, "replaced")
    try:
        target.rename(older)
        try:
            aside.rename(target)
        except BaseException:
            older.rename(target)
            raise
        fsync_folder(target.parent)
        shutil.rmtree(older)
    finally:
        if lock is not None:
            os.close(lock)
