"""One process at a time in a folder."""

import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fabella.errors import LockedError
from fabella.storage.words import LONGEST_PATH, escaped, storage_errors

LOCK = ".lock"
# The holder of a lock signs right after taking it; whoever comes in between waits up to half a second for that.
HOLDER_TRIES, HOLDER_WAIT_SECONDS = 50, 0.01


@contextmanager
def locked(folder: Path, *, what: str = "run folder") -> Generator[None]:
    """Hold ``folder`` for this process. Raises LockedError, at once, where another has it.

    The lock is a flock: it ends with the process, however that ends. The file ``.lock`` stays; it says who held it.
    """
    with storage_errors(folder, f"locking {escaped(folder.name)}"):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with storage_errors(folder, f"locking {escaped(folder.name)}"):
            _take(descriptor, f"{what} {escaped(str(folder), LONGEST_PATH)}")
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, place: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(
            f"{place} is locked by {_holder(descriptor)}.",
            fix="Wait until it has ended, stop it, or choose another folder.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    for _ in range(HOLDER_TRIES):
        words = os.pread(descriptor, 300, 0).decode("utf-8", "replace").split()
        if len(words) == 2 and words[0].isdigit() and not _is_gone(int(words[0]), words[1]):
            return f"pid {words[0]} on host {escaped(words[1])}"
        time.sleep(HOLDER_WAIT_SECONDS)
    return "another process"


def _is_gone(pid: int, host: str) -> bool:
    """Whether ``.lock`` still names a holder that died, the new one having not yet signed."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
