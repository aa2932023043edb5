"""Tests that a run with most features on, killed and resumed, ends with the bits of an uninterrupted run.

Each test runs on one rank and on two. The test itself is tested: without any part of the saved state, the bits differ.
"""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabella.engine.distributed import launcher_torch
from fabella.errors import DistributedError
from fabella.runs.run_dir import RunDir
from fabella.training.setup.request import prepare_data
from tests.faults import combined
from tests.training import tiny

IRRELEVANT_PARTS = {"numbers.consecutive_skips"}
"""Parts whose loss does not change the result: the count of consecutive skipped steps is 0 after a finite step and only
decides when a run fails. tests/training/test_recovery.py tests that failure."""
PARTS_ON_TWO_RANKS = ["second", "average", "numbers.loss_scale", "progress.stream"]


class Runs:
    """The runs that a launch of ``processes`` ranks trained, below one folder."""

    def __init__(self, processes: int, folder: Path) -> None:
        self.processes, self.folder = processes, folder
        self.left_over: list[Any] = []
        self.run = combined.run(folder)
        self.data = prepare_data(self.run, folder / "prepared", workers=1).path

    def out(self, name: str) -> Path:
        return self.folder / (name or "nothing")

    def launch(self, *names: str, kill: int = 0) -> int:
        """Start or resume these runs, and return the exit code of the launch."""
        values = self.run.model_dump(mode="json")
        jobs = [
            {"out": str(self.out(n)), "data": str(self.data), "run": values, "kill": kill, "half": True} for n in names
        ]
        try:
            return launcher_torch.launch(self.processes, combined.work, jobs)
        except DistributedError as error:
            return error.exit_code

    def fingerprint_or_error(self, name: str) -> str:
        """Return the fingerprint of a run, or the error output of its first rank."""
        if Path(f"{self.out(name)}.0.code").read_text() != "0":
            return Path(f"{self.out(name)}.0.log").read_text()
        return tiny.fingerprint(self.out(name))


def train_runs(processes: int, folder: Path) -> Runs:
    """Train a run, kill and resume another, and resume copies of that without one part of the state."""
    runs = Runs(processes, folder)
    assert runs.launch("straight") == 0
    assert runs.launch("killed", kill=combined.KILL_STEP) == DistributedError.exit_code
    runs.left_over = combined.surviving_processes(runs.out("killed"))
    mutants = ["", *(combined.parts(runs.out("killed")) if processes == 1 else PARTS_ON_TWO_RANKS)]
    for part in mutants:
        shutil.copytree(runs.out("killed"), runs.out(part))
        combined.remove_part(runs.out(part), part)
    assert runs.launch("killed", *mutants) == 0
    return runs


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return train_runs(1, tmp_path_factory.mktemp("one_process"))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return train_runs(2, tmp_path_factory.mktemp("two_processes"))


@pytest.fixture(params=["one_process", "two_processes"])
def runs(request: pytest.FixtureRequest) -> Runs:
    return request.getfixturevalue(request.param)


def rows(runs: Runs, kind: str) -> list[dict[str, Any]]:
    return [row for row in tiny.metrics(runs.out("straight")) if row["kind"] == kind]


@pytest.mark.slow
def test_everything_is_on(runs: Runs) -> None:
    """The other tests need a loss scale that falls and rises, and a best step that is not the last."""
    trained = rows(runs, "train")
    assert [row["step"] for row in trained] == list(range(1, combined.STEPS + 1))
    scales = [row["loss_scale"] for row in trained]
    changes = [after / before for before, after in itertools.pairwise(scales)]
    assert {0.5, 2.0} <= set(changes)
    assert 1 <= trained[-1]["skipped_steps"] < combined.STEPS
    scores = {row["step"]: row["loss"] for row in rows(runs, "validation")}
    assert min(scores, key=scores.__getitem__) == combined.BEST_STEP
    assert len({row["lr"] for row in trained}) > combined.STEPS / 2


@pytest.mark.slow
@pytest.mark.fault("A11", cases=2)
def test_killed_and_resumed_it_ends_with_the_bits_of_an_uninterrupted_run(runs: Runs) -> None:
    assert max(RunDir.open(runs.out("killed")).steps()) == combined.STEPS
    assert runs.fingerprint_or_error("killed") == runs.fingerprint_or_error("straight")
    assert runs.fingerprint_or_error("") == runs.fingerprint_or_error("straight"), (
        "saving the complete state again changes no bit"
    )


@pytest.mark.slow
@pytest.mark.fault("C4", cases=2)
@pytest.mark.fault("B9", cases=2)
def test_after_a_kill_no_other_process_and_no_reader_survives(runs: Runs) -> None:
    assert runs.left_over == []


@pytest.mark.slow
@pytest.mark.fault("A12", cases=16)
def test_without_any_part_of_the_saved_state_the_bits_differ(one_process: Runs) -> None:
    parts = set(combined.parts(one_process.out("")))
    assert len(parts) >= 16
    assert {"weights", "first", "numbers.step", "progress.step", *PARTS_ON_TWO_RANKS} <= parts
    without_effect = {
        part for part in parts if one_process.fingerprint_or_error(part) == one_process.fingerprint_or_error("straight")
    }
    assert without_effect == IRRELEVANT_PARTS


@pytest.mark.slow
@pytest.mark.fault("A12", cases=len(PARTS_ON_TWO_RANKS))
@pytest.mark.parametrize("part", PARTS_ON_TWO_RANKS)
def test_the_same_holds_for_two_processes(part: str, two_processes: Runs) -> None:
    assert two_processes.fingerprint_or_error(part) != two_processes.fingerprint_or_error("straight")
