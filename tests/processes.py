"""Processes that a test starts and that end with it, whatever becomes of the test; and a port for them."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def started(words: Sequence[str | Path], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """A process for as long as the block lasts; a block that fails kills it.

    ``with subprocess.Popen(…)`` alone waits for the process even then: without end, if it waits for the test in turn.
    """
    with subprocess.Popen(words, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that processes may listen at for as long as the block lasts, and that nobody else is given meanwhile.

    It stays bound, though nobody listens: those who also ask for SO_REUSEADDR, as servers do, can bind it too.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
