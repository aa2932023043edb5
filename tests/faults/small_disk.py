"""Run by test_full_disk.py in a mount namespace of its own: a real disk of 2 MB, filled to ten levels.

Prints ``ok LEVEL`` for each level that was survived, then ``ok read-only``.
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


def mount(place: Path, *options: str) -> None:
    """Mount a file system in memory, seen by this process and its children alone."""
    words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={DISK_BYTES}", *options]), "none", str(place)]
    subprocess.run(words, check=True, capture_output=True)


def fill(place: Path, left: int) -> Path:
    """Take all room on the disk but ``left`` bytes."""
    ballast = place / "ballast"
    room = os.statvfs(place)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
    return ballast


def check_save_on_full_disk(folder: RunDir, place: Path, free: str) -> None:
    """Save step 120 on the full disk, and find everything as it was."""
    before = stub.contents(place)
    told = (
        rf"^disk full: writing step-00000120 needs 484 kB, {free} are free at .*; the last good checkpoint is step-00"
    )
    with pytest.raises(DiskFullError, match=told):
        save(folder, 120, stub.checkpoint(120, TABLE))
    assert stub.contents(place) == before, "something changed, or was left aside"
    assert stub.same(load(folder, "latest").checkpoint, stub.checkpoint(100, TABLE))


def check_refusal_at_start(folder: RunDir) -> None:
    """More checkpoints than fit: told before anything is written."""
    before = stub.contents(folder.path)
    with pytest.raises(DiskFullError, match=r"the checkpoints of this run need 2\.4 MB, 1\.. MB are free"):
        require_space(folder.path, 5 * CHECKPOINT_BYTES)
    assert stub.contents(folder.path) == before
    print("ok refused")


def main(place: Path) -> None:
    """Ten levels, and a read-only disk."""
    mount(place)
    folder = stub.folder(place / "run", run=RUN)
    save(folder, 100, stub.checkpoint(100, TABLE))
    for level in range(LEVELS):
        left = CHECKPOINT_BYTES * level // LEVELS
        ballast = fill(place, left)
        check_save_on_full_disk(folder, place, format_bytes(free_bytes(place)))
        print("ok", level)
        ballast.unlink()
    check_refusal_at_start(folder)
    mount(place, "remount", "ro")
    with pytest.raises(StorageError, match=r"read-only file system; the last good checkpoint is step-00000100\."):
        save(folder, 120, stub.checkpoint(120, TABLE))
    print("ok read-only")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
