"""Killed while saving, at random and at every single call: a whole checkpoint is always there, and the next save works.

Rows A1, A2 and A13 of the fault matrix.
"""

import fcntl
import itertools
import mmap
import os
import random
import select
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fabella.runs.checkpoint import Checkpoint, load, save, set_best
from fabella.runs.run_dir import RunDir
from tests.faults.injection import DIED, die_at_call, kill_child, no_action, run_in_child, watch_disk_calls
from tests.runs import stub

KILLS = 200
KILLS_IN_SAVE = 40
# Calls of one save at least, the torn writes counted once more; the fault matrix names 24 points.
POINTS = 85
# Longer than a save of the smallest model takes here, so that kills fall on every part of several saves.
LONGEST_LIFE_SECONDS = 0.02


def leftovers(folder: RunDir) -> list[str]:
    return [item.name for item in folder.path.rglob(".*") if item.name not in {".lock", ".lock-holder"}]


@pytest.mark.fault("A1", cases=KILLS)
def test_killed_at_any_moment_the_latest_checkpoint_loads(quick_path: Path) -> None:
    folder = stub.folder(quick_path, [0])
    board = mmap.mmap(-1, 16)  # shared with the children: the step that save() has returned from, whether it is in one
    chance = random.Random(1)
    kills_in_save = 0
    for _ in range(KILLS):
        first = load(folder, "latest").step + 1
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            save_until_killed(folder, first, board, started)
        os.close(started)
        assert os.read(ready, 1) == b"."
        select.select([], [], [], chance.random() * LONGEST_LIFE_SECONDS)
        kill_child(child)
        os.close(ready)
        kills_in_save += board[8]
        loaded = load(folder, "latest")
        assert loaded.step in {saved(board), saved(board) + 1}
        assert stub.same(loaded.checkpoint, stub.checkpoint(loaded.step))
        assert all(line.startswith("ignoring incomplete step-") for line in loaded.warnings)
        folder.in_use.clear()
    assert kills_in_save >= KILLS_IN_SAVE
    with folder.lock():
        save(folder, 10**6, stub.checkpoint(10**6))
    assert leftovers(folder) == []


def saved(board: mmap.mmap) -> int:
    return int.from_bytes(board[:8], "little")


def save_until_killed(folder: RunDir, first: int, board: mmap.mmap, started: int) -> None:
    board[:9] = (first - 1).to_bytes(9, "little")
    os.write(started, b".")
    with folder.lock():
        for step in itertools.count(first):
            made = stub.checkpoint(step)
            board[8] = 1
            save(folder, step, made)
            board[:9] = step.to_bytes(9, "little")  # the ninth byte is 0: no save is going on
    os._exit(1)


# ---------------------------------------------------------------- at every call


def first_save(path: Path) -> RunDir:
    return stub.folder(path, run=stub.keeping(1))


def second_save_which_prunes(path: Path) -> RunDir:
    return stub.folder(path, [10], run=stub.keeping(1))


def third_save_which_prunes_around_the_best(path: Path) -> RunDir:
    folder = stub.folder(path, [10], run=stub.keeping(1))
    set_best(folder, 10)
    save(folder, 20, stub.checkpoint(20))
    return folder


def saving_the_only_checkpoint_again(path: Path) -> RunDir:
    folder = stub.folder(path, run=stub.keeping(1))
    save(folder, 30, stub.checkpoint(5))
    return folder


def allowed_steps(folder: RunDir) -> list[Checkpoint]:
    """What may be found after a death in the save of step 30: what was newest before, or step 30."""
    before = [load(folder, "latest").checkpoint] if folder.steps() else []
    return [*before, stub.checkpoint(30)]


@pytest.mark.fault("A2", cases=4 * POINTS)
@pytest.mark.parametrize(
    "situation",
    [
        first_save,
        second_save_which_prunes,
        third_save_which_prunes_around_the_best,
        saving_the_only_checkpoint_again,
    ],
)
def test_a_kill_at_any_disk_call_leaves_a_complete_checkpoint(
    situation: Callable[[Path], RunDir], quick_path: Path
) -> None:
    original = situation(quick_path / "original")
    rehearsal = stub.copied(original, quick_path / "rehearsal")
    with rehearsal.lock(), watch_disk_calls(no_action) as watched:
        save(rehearsal, 30, stub.checkpoint(30))
    points = [(number, False) for number in range(len(watched.calls))]
    points += [(number, True) for number, (name, _) in enumerate(watched.calls) if name == "write"]
    assert len(points) >= POINTS
    expected = allowed_steps(original)
    for number, torn in points:
        damaged = stub.copied(original, quick_path / "damaged")
        assert run_in_child(lambda: save_and_die(damaged, number, torn)) == DIED  # noqa: B023 - run at once
        check_survivor(damaged, expected)
        shutil.rmtree(damaged.path)


def save_and_die(folder: RunDir, number: int, torn: bool) -> None:
    with folder.lock(), watch_disk_calls(die_at_call(number, torn=torn)):
        save(folder, 30, stub.checkpoint(30))


def check_survivor(folder: RunDir, expected: list[Checkpoint]) -> None:
    """Whoever resumes finds one of ``expected`` (step 30 alone may also not be there yet), and the next save works."""
    with folder.lock():
        if folder.steps() or len(expected) > 1:
            found = load(folder, "latest").checkpoint
            assert any(stub.same(found, one) for one in expected)
        save(folder, 40, stub.checkpoint(40))
    assert stub.same(load(folder, "latest").checkpoint, stub.checkpoint(40))
    assert leftovers(folder) == []


# ---------------------------------------------------------------- leftovers


def shapes() -> list[Callable[[Path], None]]:
    """Twenty things that a killed process may have left under the name that a save uses aside."""

    def empty(path: Path) -> None:
        path.mkdir()

    def with_file(name: str, data: bytes) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            path.mkdir()
            (path / name).write_bytes(data)

        return make

    def nested(path: Path) -> None:
        (path / "a" / "b").mkdir(parents=True)
        (path / "a" / "b" / "c").write_bytes(b"c")

    def linked(path: Path) -> None:
        path.mkdir()
        (path / "model.safetensors").symlink_to("/etc/hostname")

    def read_only(path: Path) -> None:
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"x")
        (path / "model.safetensors").chmod(0o400)

    files = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    contents = [b"", b"x" * 10, b"{}", bytes(10_000)]
    made = [with_file(name, data) for name, data in itertools.product(files, contents)]
    return [empty, nested, linked, read_only, *made]


@pytest.mark.fault("A13", cases=20)
@pytest.mark.parametrize("shape", shapes())
def test_leftovers_of_a_killed_process_are_replaced(shape: Callable[[Path], None], tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [110])
    shape(folder.checkpoints / ".step-00000120.partial-0123456789ab")
    (folder.checkpoints / ".step-00000110.replaced-0123456789ab").mkdir()
    (folder.path / ".latest.partial-0123456789ab").write_bytes(b"step-")
    with folder.lock():
        save(folder, 120, stub.checkpoint(120))
    assert stub.same(load(folder, 120).checkpoint, stub.checkpoint(120))
    assert leftovers(folder) == []


def test_files_of_a_running_process_are_not_replaced(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [110])
    other = folder.checkpoints / ".step-00000120.partial-0123456789ab"
    other.mkdir()
    descriptor = os.open(other, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    save(folder, 120, stub.checkpoint(120))
    assert leftovers(folder) == [other.name]
    os.close(descriptor)


def test_a_signal_during_a_save_leaves_no_leftovers(tmp_path: Path) -> None:
    """Not only kills: Ctrl-C in the middle of a save cleans up after itself."""
    folder = stub.folder(tmp_path, [110])

    def interrupt(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if watched.calls[-1] == ("fsync", "model.safetensors"):
            signal.raise_signal(signal.SIGINT)

    with watch_disk_calls(interrupt) as watched, pytest.raises(KeyboardInterrupt):
        save(folder, 120, stub.checkpoint(120))
    assert folder.steps() == [110]
    assert leftovers(folder) == []
