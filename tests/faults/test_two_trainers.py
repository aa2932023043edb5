"""Two processes that want the same run folder: one has it, the other is told who.

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
    """A child that waits for the start, tries to get the run, and says how that went."""

    def __init__(self, path: Path, start: tuple[int, int], *, makes_it: bool) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(start[1])
            os.read(start[0], 1)  # ends when the parent closes its side: for all at once
            contend(path, writing, makes_it=makes_it)
        os.close(writing)
        self.reading = reading

    def result(self) -> str:
        words = os.read(self.reading, 10_000).decode()
        os.close(self.reading)
        return words


def contend(path: Path, writing: int, *, makes_it: bool) -> None:
    try:
        folder = RunDir.create(path, stub.RUN, {}) if makes_it else RunDir.open(path)
        with folder.lock():
            os.write(writing, b"won")
            signal.pause()  # until killed
    except StorageError as error:
        os.write(writing, str(error).encode())
    finally:
        os._exit(0)


def race(path: Path, *, makes_it: bool) -> tuple[list[Contender], list[str]]:
    start = os.pipe()
    contenders = [Contender(path, start, makes_it=makes_it) for _ in range(CONTENDERS)]
    for side in start:
        os.close(side)
    return contenders, [contender.result() for contender in contenders]


def check_race(path: Path, contenders: list[Contender], results: list[str], *, makes_it: bool) -> None:
    """One has won, and whoever comes later is told its pid."""
    assert results.count("won") == 1, results
    winner = contenders[results.index("won")]
    (loser,) = (words for words in results if words != "won")
    host = re.escape(os.uname().nodename)
    told = [rf"run directory {path} is locked by pid {winner.pid} on host {host}\. Wait until it"]
    told += [rf"{path} contains a run already\. Resume it"] if makes_it else []
    assert any(re.match(words, loser) for words in told), loser
    with pytest.raises(StorageError, match=f"is locked by pid {winner.pid} on host"), RunDir.open(path).lock():
        pytest.fail("the winner still holds it")


@pytest.mark.fault("A19", cases=RACES)
@pytest.mark.parametrize("makes_it", [False, True], ids=["a run that is there", "a run that both would make"])
def test_one_of_two_trainers_gets_the_run_and_the_other_learns_which(makes_it: bool, tmp_path: Path) -> None:
    for number in range(RACES // 2):
        path = tmp_path / str(number)
        if not makes_it:
            stub.folder(path)
        contenders, results = race(path, makes_it=makes_it)
        try:
            check_race(path, contenders, results, makes_it=makes_it)
        finally:
            for contender in contenders:
                kill_child(contender.pid)
        with RunDir.open(path).lock():  # the lock died with its holder
            pass


def test_a_dead_trainer_holds_no_lock(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path)

    def die_with_it() -> None:
        with folder.lock():
            os._exit(9)

    assert run_in_child(die_with_it) == 9
    assert (tmp_path / ".lock-holder").read_text().endswith(f"{os.uname().nodename}\n")
    with folder.lock():
        pass
