"""What the fault tests share: a folder that costs no disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """Like ``tmp_path``, in memory where the system has such a place: thousands of small files come and go faster."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY, prefix="fabella-test-") as folder:
        yield Path(folder)
