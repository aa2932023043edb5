"""What the operating system says about a disk, said to people: sizes, names, and errors with a fix."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fabella.errors import DiskFullError, StorageError

FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file larger than this place allows",
}
FIXES = {
    errno.EACCES: "Change the permissions, or choose another place.",
    errno.EPERM: "Change the permissions, or choose another place.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EIO: "The disk or its connection is failing: copy what matters elsewhere.",
}
LONGEST_PATH = 500


@contextmanager
def storage_errors(path: str | os.PathLike[str], doing: str, *, needed: int = 0) -> Generator[None]:
    """Turn an OSError into a DiskFullError (no space, no quota, too large) or a StorageError.

    ``doing`` begins the sentence: ``writing step-00000120``; ``needed`` is its size in bytes, where known.
    """
    try:
        yield
    except OSError as error:
        raise _in_words(Path(path), doing, needed, error) from error


def _in_words(path: Path, doing: str, needed: int, error: OSError) -> StorageError:
    place = escaped(str(path), LONGEST_PATH)
    if error.errno in FULL:
        needs = f"{doing} needs {size_in_words(needed)}" if needed else doing
        return DiskFullError(
            f"{FULL[error.errno]}: {needs}, {_free_in_words(path)} at {place}",
            fix="Free some space there, or choose a place with more.",
        )
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{doing} failed at {place}: {reason}.", fix=FIXES.get(error.errno or 0, ""))


def size_in_words(size: int) -> str:
    """``812 bytes``, ``4.1 KB``, ``48 MB``, ``1.8 GB``: decimal units, as disks are sold."""
    value, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    digits = 1 if unit != "bytes" and value < 9.95 else 0
    return f"{value:.{digits}f} {unit}"


def escaped(text: str, limit: int = 80) -> str:
    """``text`` fit for one line of a terminal: control characters as ``\\x1b``, cut at ``limit`` characters."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return safe if len(safe) <= limit else safe[:limit] + "…"


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that may still be written at ``path``, or where it would be made."""
    with storage_errors(path, "asking for the free space"):
        return _free_bytes(Path(path))


def _free_bytes(path: Path) -> int:
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _free_in_words(path: Path) -> str:
    try:
        return f"{size_in_words(_free_bytes(path))} are free"
    except OSError:
        # While telling of one failure of the disk, a second one must not hide it.
        return "an unknown amount is free"
