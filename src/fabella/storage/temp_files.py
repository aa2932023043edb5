"""What lies aside while it is being written, who owns it, and what becomes of it when its owner is killed.

``.NAME.partial-…`` is being written or removed; ``.NAME.replaced-…`` is an older NAME that waits until the new
one has taken its place. The owner holds a flock on it for as long as it lives.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

from fabella.storage.messages import escaped, storage_errors

ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<state>partial|replaced)-[0-9a-f]{12}", re.DOTALL)
# What flock answers where the file system has no locks for folders (some NFS): nobody can tell who owns what.
NO_LOCKS_HERE = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
NO_FOLDER_FSYNC_HERE = {errno.EINVAL, errno.EOPNOTSUPP}


def remove_stale_temps(parent: Path) -> list[str]:
    """Remove what killed processes left aside in ``parent``; returns the names it had been meant for.

    What a living process writes stays. A folder that stepped aside for a successor that never came is put back.
    """
    with storage_errors(parent, f"cleaning {escaped(parent.name)}"):
        return remove_stale_in(parent, None)


def restore_replaced(parent: Path) -> list[str]:
    """Restore the folders that stepped aside for a successor whose writer was killed; returns their names."""
    names: list[str] = []
    with storage_errors(parent, f"restoring what lies in {escaped(parent.name)}"):
        for path, match in _asides(parent):
            lost = match["state"] == "replaced" and not os.path.lexists(parent / match["name"])
            lock = try_lock(path) if lost else None
            if lock is not None:
                names.append(match["name"])
                _clear(path, match)
                os.close(lock)
    return names


def find_stale_temps(parent: Path) -> list[tuple[str, Path]]:
    """(name it was meant for, path) of what killed processes left aside in ``parent``; removes nothing."""
    found: list[tuple[str, Path]] = []
    with storage_errors(parent, f"reading {escaped(parent.name)}"):
        for path, match in _asides(parent):
            lock = try_lock(path)
            if lock is not None:
                os.close(lock)
                found.append((match["name"], path))
    return found


def temp_path(target: Path, state: str) -> Path:
    """A name beside ``target`` that nobody else uses; ``state`` is partial or replaced."""
    return target.parent / f".{target.name}.{state}-{secrets.token_hex(6)}"


def create_temp_dir(target: Path) -> tuple[Path, int]:
    """An empty folder of our own, and the descriptor that holds its lock."""
    while True:
        aside = temp_path(target, "partial")
        aside.mkdir()
        lock = os.open(aside, os.O_RDONLY)
        if _owns(lock, aside):
            return aside, lock


def create_temp_file(target: Path) -> tuple[Path, int]:
    """An empty file of our own, and the descriptor that holds its lock and can be written to."""
    while True:
        aside = temp_path(target, "partial")
        lock = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _owns(lock, aside):
            return aside, lock


def try_lock(path: Path) -> int | None:
    """A descriptor with the flock of ``path``; None where a living process has it, or nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError) or error.errno in NO_LOCKS_HERE:
            return None
        raise
    return descriptor


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync of folders: a rename there is as durable as it can be.
        if error.errno not in NO_FOLDER_FSYNC_HERE:
            raise
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are not there yet, each durable in its own. Raises OSError."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def remove_stale_in(parent: Path, only: str | None) -> list[str]:
    """``clean_partial``, of one name only where it is given; OSErrors are the caller's."""
    names: list[str] = []
    for path, match in _asides(parent):
        lock = try_lock(path) if only in (None, match["name"]) else None
        if lock is None:
            continue
        try:
            _clear(path, match)
            names.append(match["name"])
        finally:
            os.close(lock)
    return names


def _asides(parent: Path) -> list[tuple[Path, re.Match[str]]]:
    matches = [(path, ASIDE.fullmatch(path.name)) for path in sorted(parent.iterdir())] if parent.is_dir() else []
    return [(path, match) for path, match in matches if match is not None and not path.is_symlink()]


def _clear(path: Path, match: re.Match[str]) -> None:
    target = path.parent / match["name"]
    if match["state"] == "replaced" and not os.path.lexists(target):
        path.rename(target)
        fsync_folder(path.parent)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _owns(descriptor: int, path: Path) -> bool:
    """Take the lock of what was just made; False, and closed, where a cleaner came in between."""
    owned = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                raise
        owned = os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        if not owned:
            os.close(descriptor)
    return owned
