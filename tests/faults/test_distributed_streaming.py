"""A stream learned from by one, two and four processes: the same windows in the same order, moved on the way or not.

Row A21 of the fault matrix.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.engine.distributed import launcher_torch
from fabella.errors import DistributedError
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.training.setup.request import prepare_data
from tests.faults import combined
from tests.training import tiny

# Fifteen steps of Adam turn a rounding of 1e-7 into more.
LOSS_TOLERANCE = 1e-4
# Dropout is drawn by the micro-batches of each process, which are not the same ones here.
SETTINGS = [
    "model.dropout=0.0",
    "training.log_every_steps=1",
    "checkpoint.every_steps=3",
    "training.parallel.timeout_seconds=30",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``of1``, ``of2``, ``of4``: runs of so many processes; ``moved``: begun by two, gone on with by four, then one."""
    place = tmp_path_factory.mktemp("streams")
    run = combined.streamed(place, *SETTINGS)
    data = prepare_data(run, place / "prepared", workers=1).folder

    def do(processes: int, *jobs: tuple[str, int]) -> int:
        values = run.model_dump(mode="json")
        asked: list[dict[str, Any]] = [
            {"out": str(place / name), "data": str(data), "run": values, "kill": kill, "half": False}
            for name, kill in jobs
        ]
        try:
            return launcher_torch.launch(processes, combined.work, asked)
        except DistributedError as error:
            return error.exit_code

    assert do(1, ("of1", 0)) == 0
    assert do(2, ("of2", 0), ("moved", 5)) == DistributedError.exit_code
    assert do(4, ("of4", 0), ("moved", 10)) == DistributedError.exit_code
    assert do(1, ("moved", 0)) == 0
    return place


def trained_sequences(folder: Path, name: str) -> dict[int, list[int]]:
    """The windows of each step, in the order of the processes that took them; of a step taken twice, the later ones."""
    steps: dict[int, list[int]] = {}
    for file in sorted(folder.glob(f"{name}.*.rows")):
        taken = dict(json.loads(line) for line in file.read_text().splitlines())
        for step, windows in taken.items():
            steps.setdefault(step, []).extend(windows)
    return steps


@pytest.mark.slow
@pytest.mark.fault("A21", cases=2)
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_trains_on_the_same_sequences_in_the_same_order(processes: int, folder: Path) -> None:
    alone = trained_sequences(folder, "of1")
    assert sorted(alone) == list(range(1, combined.STEPS + 1))
    assert len({window for windows in alone.values() for window in windows}) > 100
    assert trained_sequences(folder, f"of{processes}") == alone


@pytest.mark.slow
@pytest.mark.fault("A21", cases=3)
@pytest.mark.parametrize("name", ["of2", "of4", "moved"])
def test_it_ends_with_the_same_result_and_the_same_position(name: str, folder: Path) -> None:
    ours, theirs = (load(RunDir.open(folder / out), "latest").checkpoint.progress for out in (name, "of1"))
    for part in ("step", "sequences", "tokens", "stream"):
        assert ours[part] == theirs[part]
    for kind in ("train", "validation", "final"):
        losses = [[row["loss"] for row in tiny.metrics(folder / out) if row["kind"] == kind] for out in (name, "of1")]
        assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.fault("A21", cases=2)
def test_a_killed_run_resumes_with_another_number_of_processes_at_the_next_sequence(folder: Path) -> None:
    of1 = trained_sequences(folder, "of1")
    begun_by_two = dict(json.loads(line) for line in (folder / "moved.1.rows").read_text().splitlines())
    by_four = dict(json.loads(line) for line in (folder / "moved.3.rows").read_text().splitlines())
    assert min(begun_by_two) == 1
    assert 1 < min(by_four) <= 6, "gone on with where the two were killed"
    for step, windows in by_four.items():
        assert windows == of1[step][-len(windows) :]
        assert len(windows) == len(of1[step]) // 4
