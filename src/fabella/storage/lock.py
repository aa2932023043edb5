"""Exclusive use of a directory by one process."""

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from fabella.errors import LockedError
from fabella.storage.messages import escaped, escaped_path, storage_errors

LOCK = ".lock"
HOLDER = ".lock-holder"
"""File next to the lock with the pid and host of the holder; a separate one, because Windows locks the content."""
LOCK_TIMEOUT_SECONDS = 10
"""Longest wait for a process that holds the lock and has not written its holder file."""
POLL_SECONDS = 0.01
MAX_HOLDER_BYTES = 300


@contextmanager
def lock_dir(path: Path, *, what: str = "run directory", blocking: bool = False) -> Generator[None]:
    """Hold the lock of a directory while the block runs. Raises LockedError if another process holds it.

    The operating system releases the lock when the process ends, however it ends. ``.lock-holder`` names the process.
    ``blocking`` is for short critical sections: other processes wait for this one, up to LOCK_TIMEOUT_SECONDS, instead
    of failing at once. ``what`` names the directory in the error.
    """
    action = f"locking {escaped(path.name)}"
    with storage_errors(path, action):
        if not path.is_dir():
            raise FileNotFoundError(2, "No such file or directory")
        lock = FileLock(path / LOCK, thread_local=False)  # released by any thread
        _acquire(lock, path, f"{what} {escaped_path(path)}")
    holder = path / HOLDER
    try:
        with storage_errors(path, action):
            if blocking:
                holder.unlink(missing_ok=True)  # left by a killed process
            else:
                holder.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, description: str) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = _living_holder(path)
        else:
            return
        if holder or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    raise LockedError(
        f"{description} is locked by {holder or 'another process'}.",
        hint="Wait until it has ended, stop it, or choose another directory.",
    )


def _living_holder(path: Path) -> str:
    """Return the process named by the holder file; empty if the file is missing or names a process that has ended."""
    try:
        with (path / HOLDER).open("rb") as file:
            words = file.read(MAX_HOLDER_BYTES).decode("utf-8", "replace").split()
    except FileNotFoundError:
        return ""
    if len(words) == 2 and words[0].isdecimal() and len(words[0]) < 10 and not _has_ended(int(words[0]), words[1]):
        return f"pid {words[0]} on host {escaped(words[1])}"
    return ""


def _has_ended(pid: int, host: str) -> bool:
    """Return True if ``pid`` ran on this host and has ended: the new holder has not yet written its file."""
    return host == socket.gethostname() and not psutil.pid_exists(pid)
