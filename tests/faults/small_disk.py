"""Program of test_full_disk.py, run in its own mount namespace: saves to a real 2 MB disk at ten fill levels.

Prints ``ok LEVEL`` for each level that passes, then ``ok refused`` and ``ok read-only``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.run_config.files import validate_config
from fabella.runs.checkpoint import load, require_space, save
from fabella.runs.run_dir import RunDir
from fabella.storage import format_bytes, free_bytes
from tests.runs import stub

DISK_BYTES = 2_000_000
LEVELS = 10
RUN = validate_config({**stub.VALUES, "model": {**stub.VALUES["model"], "vocab_size": 20_000}})
TABLE = RUN.model.parameters()
CHECKPOINT_BYTES = 480_000


def mount(disk: Path, *options: str) -> None:
    """Mount a file system in memory that only this process and its children can see."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={DISK_BYTES}", *options]), "none", str(disk)]
    subprocess.run(command, check=True, capture_output=True)


def fill(disk: Path, left: int) -> Path:
    """Fill the disk up to ``left`` free bytes, and return the file that fills it."""
    filler = disk / "ballast"
    usage = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, usage.f_bavail * usage.f_frsize - left)
    return filler


def check_save_on_full_disk(folder: RunDir, disk: Path, free: str) -> None:
    """Check that saving step 120 on the full disk fails and changes no file."""
    before = stub.contents(disk)
    expected_message = (
        rf"^disk full: writing step-00000120 needs 484 kB, {free} are free at .*; the last good checkpoint is step-00"
    )
    with pytest.raises(DiskFullError, match=expected_message):
        save(folder, 120, stub.checkpoint(120, TABLE))
    assert stub.contents(disk) == before, "a file changed, or a temporary file remains"
    assert stub.same(load(folder, "latest").checkpoint, stub.checkpoint(100, TABLE))


def check_refusal_at_start(folder: RunDir) -> None:
    """Check that a run with more checkpoints than fit is refused before anything is written."""
    before = stub.contents(folder.path)
    with pytest.raises(DiskFullError, match=r"the checkpoints of this run need 2\.4 MB, 1\.. MB are free"):
        require_space(folder.path, 5 * CHECKPOINT_BYTES)
    assert stub.contents(folder.path) == before
    print("ok refused")


def main(disk: Path) -> None:
    """Save at ten fill levels, then on a read-only disk."""
    mount(disk)
    folder = stub.folder(disk / "run", run=RUN)
    save(folder, 100, stub.checkpoint(100, TABLE))
    for level in range(LEVELS):
        left = CHECKPOINT_BYTES * level // LEVELS
        filler = fill(disk, left)
        check_save_on_full_disk(folder, disk, format_bytes(free_bytes(disk)))
        print("ok", level)
        filler.unlink()
    check_refusal_at_start(folder)
    mount(disk, "remount", "ro")
    with pytest.raises(StorageError, match=r"read-only file system; the last good checkpoint is step-00000100\."):
        save(folder, 120, stub.checkpoint(120, TABLE))
    print("ok read-only")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
