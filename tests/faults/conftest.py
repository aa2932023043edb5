"""A fixture for the fault tests: a temporary directory in memory."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """Like ``tmp_path``, but in memory if possible: thousands of small files are written faster."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY, prefix="fabella-test-") as folder:
        yield Path(folder)
