"""Child processes that end with their test, and a free port for them."""

import multiprocessing
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start a process for the duration of the block, and kill it if the block raises.

    ``subprocess.Popen`` as a context manager would wait for the process even then, forever if that waits for the test.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a free port for child processes for the duration of the block.

    The port is bound, so that no other process gets it, but servers with SO_REUSEADDR can bind it as well.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def run_in_fresh_process(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of a module in a new process, and raise its exception here.

    For hundreds of forks: each one takes a tenth of a second in a process that has run a thousand tests.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()
