"""One process at a time in a folder."""

import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fabella.errors import LockedError
from fabella.storage.messages import LONGEST_PATH, escaped, storage_errors

LOCK = ".lock"
# A holder signs right after taking the lock; one that needs it but for a moment does not sign, yet a slow disk makes
# seconds of that moment. Whoever comes in between tries again for as long.
PATIENCE_SECONDS, WAIT_SECONDS = 10, 0.01


@contextmanager
def locked(folder: Path, *, what: str = "run folder", briefly: bool = False) -> Generator[None]:
    """Hold ``folder`` for this process. Raises LockedError, at once, where another has it.

    The lock is a flock: it ends with the process, however that ends. The file ``.lock`` stays; it says who holds it.
    ``briefly``: for a look or two; others then wait for us instead of being refused.
    """
    with storage_errors(folder, f"locking {escaped(folder.name)}"):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with storage_errors(folder, f"locking {escaped(folder.name)}"):
            _take(descriptor, f"{what} {escaped(str(folder), LONGEST_PATH)}")
            os.ftruncate(descriptor, 0)
            if not briefly:
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # or a later holder that has not yet signed would be taken for us
    finally:
        os.close(descriptor)


def _take(descriptor: int, place: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
        else:
            return
        if holder or time.monotonic() > until:
            break
        time.sleep(WAIT_SECONDS)
    raise LockedError(
        f"{place} is locked by {holder or 'another process'}.",
        hint="Wait until it has ended, stop it, or choose another folder.",
    )


def _holder(descriptor: int) -> str:
    """Who has signed; empty where nobody has yet, or where a dead one had."""
    words = os.pread(descriptor, 300, 0).decode("utf-8", "replace").split()
    if len(words) == 2 and words[0].isdigit() and not _is_gone(int(words[0]), words[1]):
        return f"pid {words[0]} on host {escaped(words[1])}"
    return ""


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
