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
LIMITED = "Raise the limit (ulimit -f unlimited), or choose a place that takes larger files."
FIXES = {
    errno.EACCES: "Change the permissions, or choose another place.",
    errno.EPERM: "Change the permissions, or choose another place.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EIO: "The disk or its connection is failing: copy what matters elsewhere.",
}
LONGEST_PATH = 500


@contextmanager
def storage_errors(
    path: str | os.PathLike[str], doing: str, *, needed: int = 0, free: int | None = None
) -> Generator[None]:
    """Turn an OSError into a DiskFullError (no space, no quota, too large) or a StorageError.

    ``doing`` begins the sentence: ``writing step-00000120``; ``needed`` is its size in bytes, where known, and
    ``free`` what was free before, which is measured here at the beginning where ``needed`` is given alone.
    """
    place = Path(path)
    before = free_if_known(place) if needed and free is None else free
    try:
        yield
    except OSError as error:
        raise _in_words(place, doing, needed, before, error) from error


def _in_words(path: Path, doing: str, needed: int, free: int | None, error: OSError) -> StorageError:
    place = escaped(str(path), LONGEST_PATH)
    if error.errno in FULL:
        known = free_if_known(path) if free is None else free
        needs = f"{doing} needs {format_bytes(needed)}" if needed else doing
        room = f"{format_bytes(known)} are free" if known is not None else "an unknown amount is free"
        return DiskFullError(
            f"{FULL[error.errno]}: {needs}, {room} at {place}.",
            hint=LIMITED if error.errno == errno.EFBIG else "Free some space there, or choose a place with more.",
        )
    reason = (error.strerror or str(error)).lower()
    return StorageError(f"{doing} failed at {place}: {reason}.", hint=FIXES.get(error.errno or 0, ""))


def format_bytes(size: int) -> str:
    """``812 bytes``, ``4.1 KB``, ``48 MB``, ``1.8 GB``: decimal units, as disks are sold."""
    value, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    number = f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}"
    return f"{number} {unit}"


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


def free_if_known(path: Path) -> int | None:
    """``free_bytes`` for telling of another failure, which a failure of asking must not hide."""
    try:
        return _free_bytes(path)
    except OSError:
        return None


def number_of(count: int, noun: str) -> str:
    """``1 document``, ``2,000 documents``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
