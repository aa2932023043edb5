"""OSError to StorageError, and text that is safe to print."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fabella.errors import DiskFullError, StorageError
from fabella.storage.formatting import format_bytes

FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file too large",
}
"""Error numbers of a full disk, with the beginning of the message."""
FILE_SIZE_HINT = "Raise the limit (ulimit -f unlimited), or choose a directory that takes larger files."
HINTS = {
    errno.EACCES: "Change the permissions, or choose another directory.",
    errno.EPERM: "Change the permissions, or choose another directory.",
    errno.EROFS: "Choose a writable directory.",
    errno.EIO: "The disk or its connection is failing: copy your data to another disk.",
}
MAX_PATH_CHARACTERS = 500
"""Longest path in a message."""


@contextmanager
def storage_errors(
    path: str | os.PathLike[str], action: str, *, needed: int = 0, free: int | None = None
) -> Generator[None]:
    """Turn an OSError into a DiskFullError (no space, no quota, too large) or a StorageError.

    ``action`` begins the sentence: ``writing step-00000120``. ``needed`` is the size of the write in bytes; 0 if
    unknown. ``free`` is the free space before it, in bytes; measured here if ``needed`` is given without it.
    """
    target = Path(path)
    free_before = free_if_known(target) if needed and free is None else free
    try:
        yield
    except OSError as error:
        raise _to_storage_error(target, action, needed, free_before, error) from error


def _to_storage_error(path: Path, action: str, needed: int, free: int | None, error: OSError) -> StorageError:
    location = escaped_path(path)
    if error.errno in FULL:
        available = free_if_known(path) if free is None else free
        needs = f"{action} needs {format_bytes(needed)}" if needed else action
        space = f"{format_bytes(available)} are free" if available is not None else "the free space is unknown"
        return DiskFullError(
            f"{FULL[error.errno]}: {needs}, {space} at {location}.",
            hint=FILE_SIZE_HINT if error.errno == errno.EFBIG else "Free some space there, or choose a disk with more.",
        )
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{action} failed at {location}: {reason}.", hint=HINTS.get(error.errno or 0, ""))


def escaped(text: str, limit: int = 80) -> str:
    """Return ``text`` as one printable line: control characters as ``\\x1b``, cut at ``limit`` characters."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return safe if len(safe) <= limit else safe[:limit] + "…"


def escaped_path(path: str | os.PathLike[str]) -> str:
    """Return a path as one printable line of at most MAX_PATH_CHARACTERS characters."""
    return escaped(str(path), MAX_PATH_CHARACTERS)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Return the free disk space at ``path`` in bytes, or at its nearest existing parent. Raises StorageError."""
    with storage_errors(path, "reading the free disk space"):
        return _free_bytes(Path(path))


def _free_bytes(path: Path) -> int:
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def free_if_known(path: Path) -> int | None:
    """Return ``free_bytes`` for the message of another error; None if it fails, so that it cannot hide that error."""
    try:
        return _free_bytes(path)
    except OSError:
        return None
