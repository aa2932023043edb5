"""Temporary files and directories of atomic writes, and their removal after a killed process.

``.NAME.partial-…`` is being written or removed. ``.NAME.replaced-…`` is the older NAME, kept until the new one has
been renamed into place. The writer holds an flock on a temporary for as long as it lives. Where there is no flock
(Windows, some NFS), no process can know whether a temporary is stale: none is removed and none is restored.
"""

import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from fabella.storage.messages import escaped, storage_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_FLOCK = fcntl is not None
OPENS_DIRS = hasattr(os, "O_DIRECTORY")
"""Whether a directory can be opened, to lock it or to make new names in it durable, and an open file renamed: not on
Windows."""
BINARY = getattr(os, "O_BINARY", 0)
"""Flag without which Windows converts the line ends of an open file."""
FSYNC_FLAGS = (os.O_RDONLY if OPENS_DIRS else os.O_RDWR) | getattr(os, "O_NOFOLLOW", 0) | BINARY
"""Flags to open a written file for fsync, which needs write access on Windows."""
TEMP_NAME = re.compile(r"\.(?P<name>.+)\.(?P<state>partial|replaced)-[0-9a-f]{12}", re.DOTALL)
NO_LOCK_ERRORS = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""Error numbers of flock on a file system that cannot lock directories (some NFS)."""
NO_FSYNC_ERRORS = {errno.EINVAL, errno.EOPNOTSUPP}
"""Error numbers of fsync on a file system that cannot sync directories."""


def remove_stale_temps(parent: Path) -> list[str]:
    """Remove the temporaries of killed processes in ``parent``; return the names they were written for.

    Temporaries of running processes stay. A replaced directory without a successor is restored. Raises StorageError.
    """
    with storage_errors(parent, f"cleaning {escaped(parent.name)}"):
        return remove_stale_in(parent, None)


def restore_replaced(parent: Path) -> list[str]:
    """Restore replaced directories whose writer was killed before the rename; return their names."""
    names: list[str] = []
    with storage_errors(parent, f"restoring replaced directories in {escaped(parent.name)}"):
        for path, match in _temps(parent):
            is_lost = match["state"] == "replaced" and not os.path.lexists(parent / match["name"])
            lock = try_lock(path) if is_lost else None
            if lock is not None:
                names.append(match["name"])
                _clear(path, match)
                os.close(lock)
    return names


def find_stale_temps(parent: Path) -> list[tuple[str, Path]]:
    """Return (name it was written for, path) of each temporary of a killed process in ``parent``; remove nothing."""
    stale: list[tuple[str, Path]] = []
    with storage_errors(parent, f"reading {escaped(parent.name)}"):
        for path, match in _temps(parent):
            lock = try_lock(path)
            if lock is not None:
                os.close(lock)
                stale.append((match["name"], path))
    return stale


def temp_path(target: Path, state: str) -> Path:
    """Return a random path next to ``target``; ``state`` is ``partial`` or ``replaced``."""
    return target.parent / f".{target.name}.{state}-{secrets.token_hex(6)}"


def create_temp_dir(target: Path) -> tuple[Path, int | None]:
    """Create an empty temporary directory; return it and the descriptor that holds its lock, None on Windows."""
    while True:
        temp = temp_path(target, "partial")
        temp.mkdir()
        if not OPENS_DIRS:
            return temp, None
        lock = os.open(temp, os.O_RDONLY)
        if _owns(lock, temp):
            return temp, lock


def create_temp_file(target: Path) -> tuple[Path, int]:
    """Create an empty temporary file; return it and the writable descriptor that holds its lock."""
    while True:
        temp = temp_path(target, "partial")
        lock = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        if _owns(lock, temp):
            return temp, lock


def try_lock(path: Path) -> int | None:
    """Return a descriptor with the flock of ``path``; None if a process holds it, or if that cannot be known."""
    if not HAS_FLOCK:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    try:
        acquired = flock(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    if acquired:
        return descriptor
    os.close(descriptor)
    return None


def flock(descriptor: int) -> bool | None:
    """Lock an open file without waiting: True if acquired, False if another process holds it, None without flock."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCK_ERRORS:
            return None
        raise
    return True


def fsync_dir(path: Path) -> None:
    """Make renames and new names in a directory durable, where a directory can be opened."""
    if not OPENS_DIRS:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync directories: a rename there is as durable as it can be.
        if error.errno not in NO_FSYNC_ERRORS:
            raise
    finally:
        os.close(descriptor)


def make_dirs(path: Path) -> None:
    """Create a directory and its missing parents, each durable in its own parent. Raises OSError."""
    if not path.is_dir():
        make_dirs(path.parent)
        path.mkdir(exist_ok=True)
        fsync_dir(path.parent)


def remove_stale_in(parent: Path, only: str | None) -> list[str]:
    """Remove stale temporaries like ``remove_stale_temps``, of one name if ``only`` is given. Raises OSError."""
    names: list[str] = []
    for path, match in _temps(parent):
        lock = try_lock(path) if only in (None, match["name"]) else None
        if lock is None:
            continue
        try:
            _clear(path, match)
            names.append(match["name"])
        finally:
            os.close(lock)
    return names


def _temps(parent: Path) -> list[tuple[Path, re.Match[str]]]:
    matches = [(path, TEMP_NAME.fullmatch(path.name)) for path in sorted(parent.iterdir())] if parent.is_dir() else []
    return [(path, match) for path, match in matches if match is not None and not path.is_symlink()]


def _clear(path: Path, match: re.Match[str]) -> None:
    target = path.parent / match["name"]
    if match["state"] == "replaced" and not os.path.lexists(target):
        path.rename(target)
        fsync_dir(path.parent)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _owns(descriptor: int, path: Path) -> bool:
    """Lock a temporary that was just created; False, with the descriptor closed, if a cleanup removed it first."""
    owned = False
    try:
        owned = flock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
    finally:
        if not owned:
            os.close(descriptor)
    return owned
