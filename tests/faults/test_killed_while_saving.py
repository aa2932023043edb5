"""Tests that a kill during a save, at random or at each disk call, leaves a complete checkpoint.

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
from tests.processes import run_in_fresh_process
from tests.runs import stub

KILLS = 200
KILLS_IN_SAVE = 40
# Minimum number of kill points of one save, torn writes included; the fault matrix requires 24.
POINTS = 85
# Longer than a save of the smallest model, so that kills reach every part of several saves.
MAX_LIFETIME_SECONDS = 0.02


def leftovers(folder: RunDir) -> list[str]:
    return [item.name for item in folder.path.rglob(".*") if item.name not in {".lock", ".lock-holder"}]


@pytest.mark.fault("A1", cases=KILLS)
def test_killed_at_any_moment_the_latest_checkpoint_loads(quick_path: Path) -> None:
    run_in_fresh_process(kill_savers, quick_path)


def kill_savers(quick_path: Path) -> None:
    folder = stub.folder(quick_path, [0])
    shared = mmap.mmap(-1, 16)  # shared with the child: the last saved step, and whether a save is running
    generator = random.Random(1)
    kills_in_save = 0
    for _ in range(KILLS):
        first = load(folder, "latest").step + 1
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            save_until_killed(folder, first, shared, started)
        os.close(started)
        assert os.read(ready, 1) == b"."
        select.select([], [], [], generator.random() * MAX_LIFETIME_SECONDS)
        kill_child(child)
        os.close(ready)
        kills_in_save += shared[8]
        loaded = load(folder, "latest")
        assert loaded.step in {last_saved_step(shared), last_saved_step(shared) + 1}
        assert stub.same(loaded.checkpoint, stub.checkpoint(loaded.step))
        assert all(line.startswith("ignoring incomplete step-") for line in loaded.warnings)
        folder.in_use.clear()
    assert kills_in_save >= KILLS_IN_SAVE
    with folder.lock():
        save(folder, 10**6, stub.checkpoint(10**6))
    assert leftovers(folder) == []


def last_saved_step(shared: mmap.mmap) -> int:
    return int.from_bytes(shared[:8], "little")


def save_until_killed(folder: RunDir, first: int, shared: mmap.mmap, started: int) -> None:
    shared[:9] = (first - 1).to_bytes(9, "little")
    os.write(started, b".")
    with folder.lock():
        for step in itertools.count(first):
            checkpoint = stub.checkpoint(step)
            shared[8] = 1
            save(folder, step, checkpoint)
            shared[:9] = step.to_bytes(9, "little")  # the ninth byte is 0: no save is running
    os._exit(1)


# ---------------------------------------------------------------- killed at each disk call


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


def allowed_checkpoints(folder: RunDir) -> list[Checkpoint]:
    """Return the checkpoints allowed after a kill in the save of step 30: the latest one before it, or step 30."""
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
    run_in_fresh_process(kill_at_each_disk_call, situation, quick_path)


def kill_at_each_disk_call(situation: Callable[[Path], RunDir], quick_path: Path) -> None:
    original = situation(quick_path / "original")
    rehearsal = stub.copied(original, quick_path / "rehearsal")
    with rehearsal.lock(), watch_disk_calls(no_action) as recorded:
        save(rehearsal, 30, stub.checkpoint(30))
    points = [(number, False) for number in range(len(recorded.calls))]
    points += [(number, True) for number, (name, _) in enumerate(recorded.calls) if name == "write"]
    assert len(points) >= POINTS
    expected = allowed_checkpoints(original)
    for number, torn in points:
        damaged = stub.copied(original, quick_path / "damaged")
        assert run_in_child(lambda: save_and_die(damaged, number, torn)) == DIED  # noqa: B023 - run at once
        check_survivor(damaged, expected)
        shutil.rmtree(damaged.path)


def save_and_die(folder: RunDir, number: int, torn: bool) -> None:
    with folder.lock(), watch_disk_calls(die_at_call(number, torn=torn)):
        save(folder, 30, stub.checkpoint(30))


def check_survivor(folder: RunDir, expected: list[Checkpoint]) -> None:
    """Check that one of ``expected`` loads, or nothing if only step 30 is expected, and that the next save works."""
    with folder.lock():
        if folder.steps() or len(expected) > 1:
            found = load(folder, "latest").checkpoint
            assert any(stub.same(found, one) for one in expected)
        save(folder, 40, stub.checkpoint(40))
    assert stub.same(load(folder, "latest").checkpoint, stub.checkpoint(40))
    assert leftovers(folder) == []


# ---------------------------------------------------------------- leftovers


def leftover_makers() -> list[Callable[[Path], None]]:
    """Return twenty functions that create what a killed process may leave under the temporary name of a save."""

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
@pytest.mark.parametrize("make_leftover", leftover_makers())
def test_leftovers_of_a_killed_process_are_replaced(make_leftover: Callable[[Path], None], tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [110])
    make_leftover(folder.checkpoints / ".step-00000120.partial-0123456789ab")
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
    lock_file = os.open(other, os.O_RDONLY)
    fcntl.flock(lock_file, fcntl.LOCK_EX)
    save(folder, 120, stub.checkpoint(120))
    assert leftovers(folder) == [other.name]
    os.close(lock_file)


def test_a_signal_during_a_save_leaves_no_leftovers(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a save removes the temporary files."""
    folder = stub.folder(tmp_path, [110])

    def interrupt(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if watched.calls[-1] == ("fsync", "model.safetensors"):
            signal.raise_signal(signal.SIGINT)

    with watch_disk_calls(interrupt) as watched, pytest.raises(KeyboardInterrupt):
        save(folder, 120, stub.checkpoint(120))
    assert folder.steps() == [110]
    assert leftovers(folder) == []
