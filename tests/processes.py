"""Processes that a test starts and that end with it, whatever becomes of the test."""

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
