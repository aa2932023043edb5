"""Everything at once: killed and gone on with, the bits of a run that nothing disturbed, by one process and by two.

And the proof that this proof proves something: whatever part of the saved state is left out, it fails.
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

NEEDLESS = {"numbers.consecutive_skips"}
"""What a run that skips counts for nothing but to end: 0 between two finite steps. tests/training/test_recovery.py
has the run that ends."""
BY_TWO = ["second", "numbers.loss_scale", "progress.stream"]


class World:
    """What so many processes made of the run."""

    def __init__(self, processes: int, folder: Path) -> None:
        self.processes, self.folder = processes, folder
        self.left_over: list[Any] = []
        self.run = combined.run(folder)
        self.data = prepare_data(self.run, folder / "prepared", workers=1).folder

    def out(self, name: str) -> Path:
        return self.folder / (name or "nothing")

    def do(self, *names: str, kill: int = 0) -> int:
        """Begin these runs or go on with them; the exit code of all processes."""
        values = self.run.model_dump(mode="json")
        jobs = [
            {"out": str(self.out(n)), "data": str(self.data), "run": values, "kill": kill, "half": True} for n in names
        ]
        try:
            return launcher_torch.launch(self.processes, combined.work, jobs)
        except DistributedError as error:
            return error.exit_code

    def ended_as(self, name: str) -> str:
        """The fingerprint of a run, or the error that it ended with."""
        if Path(f"{self.out(name)}.0.code").read_text() != "0":
            return Path(f"{self.out(name)}.0.log").read_text()
        return tiny.fingerprint(self.out(name))


def world_of(processes: int, folder: Path) -> World:
    """The run undisturbed, the run killed and gone on with, and mutants of what the killed one had saved."""
    world = World(processes, folder)
    assert world.do("straight") == 0
    assert world.do("killed", kill=combined.KILLED) == DistributedError.exit_code
    world.left_over = combined.surviving_processes(world.out("killed"))
    mutants = ["", *(combined.parts(world.out("killed")) if processes == 1 else BY_TWO)]
    for part in mutants:
        shutil.copytree(world.out("killed"), world.out(part))
        combined.remove_part(world.out(part), part)
    assert world.do("killed", *mutants) == 0
    return world


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(1, tmp_path_factory.mktemp("one_process"))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(2, tmp_path_factory.mktemp("two_processes"))


@pytest.fixture(params=["one_process", "two_processes"])
def world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(request.param)


def rows(world: World, kind: str) -> list[dict[str, Any]]:
    return [row for row in tiny.metrics(world.out("straight")) if row["kind"] == kind]


@pytest.mark.slow
def test_everything_is_on(world: World) -> None:
    """Nothing of it would show, were the loss scale never lowered and raised, or the best score always the last."""
    trained = rows(world, "train")
    assert [row["step"] for row in trained] == list(range(1, combined.STEPS + 1))
    scales = [row["loss_scale"] for row in trained]
    changes = [after / before for before, after in itertools.pairwise(scales)]
    assert {0.5, 2.0} <= set(changes)
    assert 1 <= trained[-1]["skipped_steps"] < combined.STEPS
    scores = {row["step"]: row["loss"] for row in rows(world, "validation")}
    assert min(scores, key=scores.__getitem__) == combined.BEST
    assert len({row["lr"] for row in trained}) > combined.STEPS / 2


@pytest.mark.slow
@pytest.mark.fault("A11", cases=2)
def test_killed_and_resumed_it_ends_with_the_bits_of_an_uninterrupted_run(world: World) -> None:
    assert max(RunDir.open(world.out("killed")).steps()) == combined.STEPS
    assert world.ended_as("killed") == world.ended_as("straight")
    assert world.ended_as("") == world.ended_as("straight"), "the saved state itself, written anew, is no mutant"


@pytest.mark.slow
@pytest.mark.fault("C4", cases=2)
@pytest.mark.fault("B9", cases=2)
def test_after_a_kill_no_other_process_and_no_reader_survives(world: World) -> None:
    assert world.left_over == []


@pytest.mark.slow
@pytest.mark.fault("A12", cases=13)
def test_without_any_part_of_the_saved_state_the_bits_differ(one_process: World) -> None:
    parts = set(combined.parts(one_process.out("")))
    assert len(parts) >= 13
    assert {"weights", "first", "numbers.step", "progress.step", *BY_TWO} <= parts
    unnoticed = {part for part in parts if one_process.ended_as(part) == one_process.ended_as("straight")}
    assert unnoticed == NEEDLESS


@pytest.mark.slow
@pytest.mark.fault("A12", cases=len(BY_TWO))
@pytest.mark.parametrize("part", BY_TWO)
def test_the_same_holds_for_two_processes(part: str, two_processes: World) -> None:
    assert two_processes.ended_as(part) != two_processes.ended_as("straight")
