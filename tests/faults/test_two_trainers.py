"""Tests that one of two processes gets the lock of a run directory and the other gets an error that names its pid.

Row A19 of the fault matrix.
"""

import os
import re
import signal
from pathlib import Path

import pytest

from fabella.errors import StorageError
from fabella.runs.run_dir import RunDir
from tests.faults.injection import kill_child, run_in_child
from tests.runs import stub

RACES = 20
CONTENDERS = 2


class Contender:
    """A child that waits for the start, tries to lock the run, and reports the result."""

    def __init__(self, path: Path, start: tuple[int, int], *, creates_run: bool) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(start[1])
            os.read(start[0], 1)  # returns when the parent closes its end: in all children at once
            contend(path, writing, creates_run=creates_run)
        os.close(writing)
        self.reading = reading

    def result(self) -> str:
        words = os.read(self.reading, 10_000).decode()
        os.close(self.reading)
        return words


def contend(path: Path, writing: int, *, creates_run: bool) -> None:
    try:
        folder = RunDir.create(path, stub.RUN, {}) if creates_run else RunDir.open(path)
        with folder.lock():
            os.write(writing, b"won")
            signal.pause()  # until killed
    except StorageError as error:
        os.write(writing, str(error).encode())
    finally:
        os._exit(0)


def race(path: Path, *, creates_run: bool) -> tuple[list[Contender], list[str]]:
    start = os.pipe()
    contenders = [Contender(path, start, creates_run=creates_run) for _ in range(CONTENDERS)]
    for side in start:
        os.close(side)
    return contenders, [contender.result() for contender in contenders]


def check_race(path: Path, contenders: list[Contender], results: list[str], *, creates_run: bool) -> None:
    """Check that one process has the lock, and that the error of the other names its pid."""
    assert results.count("won") == 1, results
    winner = contenders[results.index("won")]
    (loser,) = (message for message in results if message != "won")
    host = re.escape(os.uname().nodename)
    expected_messages = [rf"run directory {path} is locked by pid {winner.pid} on host {host}\. Wait until it"]
    expected_messages += [rf"{path} contains a run already\. Resume it"] if creates_run else []
    assert any(re.match(message, loser) for message in expected_messages), loser
    with pytest.raises(StorageError, match=f"is locked by pid {winner.pid} on host"), RunDir.open(path).lock():
        pytest.fail("the winner still holds the lock")


@pytest.mark.fault("A19", cases=RACES)
@pytest.mark.parametrize("creates_run", [False, True], ids=["existing run", "run that both create"])
def test_one_of_two_trainers_gets_the_run_and_the_other_learns_which(creates_run: bool, tmp_path: Path) -> None:
    for number in range(RACES // 2):
        path = tmp_path / str(number)
        if not creates_run:
            stub.folder(path)
        contenders, results = race(path, creates_run=creates_run)
        try:
            check_race(path, contenders, results, creates_run=creates_run)
        finally:
            for contender in contenders:
                kill_child(contender.pid)
        with RunDir.open(path).lock():  # the lock was released when its holder was killed
            pass


def test_a_dead_trainer_holds_no_lock(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path)

    def exit_with_lock() -> None:
        with folder.lock():
            os._exit(9)

    assert run_in_child(exit_with_lock) == 9
    assert (tmp_path / ".lock-holder").read_text().endswith(f"{os.uname().nodename}\n")
    with folder.lock():
        pass
