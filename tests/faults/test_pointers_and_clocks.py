"""Tests that the latest checkpoint is chosen by its step, with broken pointers, clock changes and wrong file times.

Rows A14 and A15 of the fault matrix.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fabella.runs.checkpoint import load, save
from fabella.runs.run_dir import RunDir
from tests.runs import stub

TEN_YEARS = 10 * 365.25 * 86_400


def write_pointer(data: bytes) -> Callable[[RunDir], None]:
    def write(folder: RunDir) -> None:
        (folder.path / "latest").write_bytes(data)

    return write


def delete_pointer(folder: RunDir) -> None:
    (folder.path / "latest").unlink()


def damage_target(folder: RunDir) -> None:
    folder.set_pointer("latest", 130)
    (folder.checkpoints / "step-00000130").mkdir()


def make_dangling_link(folder: RunDir) -> None:
    delete_pointer(folder)
    (folder.path / "latest").symlink_to("step-00000130")


POINTERS: dict[str, tuple[Callable[[RunDir], None], str]] = {
    "missing": (delete_pointer, "no latest checkpoint is recorded"),
    "dangling": (write_pointer(b"step-00000999\n"), "ignoring latest (step-00000999 does not exist)"),
    "outside": (
        write_pointer(b"../../other/checkpoints/step-00000999\n"),
        "ignoring latest (latest is not the name of a checkpoint: '../../other/checkpoints/step-00000999\\n')",
    ),
    "to an incomplete one": (damage_target, "ignoring incomplete step-00000130 (no manifest)"),
    "empty": (write_pointer(b""), "ignoring latest (latest is not the name of a checkpoint: '')"),
    "not a name": (
        write_pointer(b"\xff\x1b[2Jstep-00000120"),
        "ignoring latest (latest is not the name of a checkpoint: '\\xff\\x1b[2Jstep-00000120')",
    ),
}


@pytest.mark.fault("A14", cases=len(POINTERS))
@pytest.mark.parametrize("damage", POINTERS)
def test_a_broken_pointer_falls_back_to_the_latest_valid_step(damage: str, tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [120, 100], run=stub.keeping(5))
    folder.set_pointer("latest", 120)
    break_it, expected_warning = POINTERS[damage]
    break_it(folder)
    loaded = load(folder, "latest")
    assert stub.same(loaded.checkpoint, stub.checkpoint(120))
    assert loaded.warnings == [f"{expected_warning}; resuming from step-00000120"]


def test_a_pointer_that_is_a_dangling_link_is_reported(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [120])
    make_dangling_link(folder)
    loaded = load(folder, "latest")
    assert loaded.step == 120
    assert loaded.warnings == [
        f"ignoring latest (reading latest failed at {tmp_path}/latest: no such file or directory); "
        "resuming from step-00000120"
    ]


CLOCKS: dict[str, list[float]] = {
    "going on": [0.0, 1.0, 2.0],
    "standing still": [0.0, 0.0, 0.0],
    "back ten years": [0.0, 1.0, -TEN_YEARS],
    "back ten years and forth": [0.0, -TEN_YEARS, 1.0],
    "ahead ten years and back": [0.0, TEN_YEARS, 1.0],
    "ahead ten years": [0.0, 1.0, TEN_YEARS],
    "always back": [2.0, 1.0, 0.0],
    "before 1970": [0.0, -time.time() - 1, 1.0],
}


@pytest.mark.fault("A15", cases=len(CLOCKS))
@pytest.mark.parametrize("clock", CLOCKS)
def test_clock_changes_have_no_effect(clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    folder = stub.folder(tmp_path)
    for step, shift in zip((80, 100, 120), CLOCKS[clock], strict=True):
        monkeypatch.setattr(time, "time", lambda shift=shift: now + shift)
        save(folder, step, stub.checkpoint(step))
        set_times(folder, step, max(0.0, now + shift))
    (folder.path / "latest").unlink()
    assert load(folder, "latest").step == 120
    assert folder.steps() == [100, 120], "pruned by step"


@pytest.mark.fault("A15", cases=2)
@pytest.mark.parametrize("seed", [1, 2])
def test_file_times_have_no_effect(seed: int, tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, run=stub.keeping(5))
    steps = [20, 40, 60, 80, 100]
    for step in steps:
        save(folder, step, stub.checkpoint(step))
    times = random.Random(seed).sample(range(1_000_000_000, 1_000_000_005), k=5)
    for step, when in zip(steps, times, strict=True):
        set_times(folder, step, when)
    (folder.path / "latest").unlink()
    assert load(folder, "latest").step == 100
    save(folder, 120, stub.checkpoint(120))
    assert folder.steps() == [40, 60, 80, 100, 120]


def set_times(folder: RunDir, step: int, when: float) -> None:
    checkpoint_dir = folder.checkpoints / f"step-{step:08d}"
    for path in [*checkpoint_dir.iterdir(), checkpoint_dir]:
        os.utime(path, (when, when))
