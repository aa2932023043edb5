"""Tests that one, two and four ranks train on the same streamed sequences in the same order, also after a resume.

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

# Fifteen steps of Adam amplify a rounding error of 1e-7.
LOSS_TOLERANCE = 1e-4
# Dropout depends on the micro-batches of a rank, which differ between world sizes.
SETTINGS = [
    "model.dropout=0.0",
    "training.log_every_steps=1",
    "checkpoint.every_steps=3",
    "training.parallel.timeout_seconds=30",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train ``of1``, ``of2``, ``of4`` on as many ranks, and ``moved``: started on two, resumed on four, then on one."""
    path = tmp_path_factory.mktemp("streams")
    run = combined.streamed(path, *SETTINGS)
    data = prepare_data(run, path / "prepared", workers=1).path

    def launch(processes: int, *jobs: tuple[str, int]) -> int:
        values = run.model_dump(mode="json")
        job_configs: list[dict[str, Any]] = [
            {"out": str(path / name), "data": str(data), "run": values, "kill": kill, "half": False}
            for name, kill in jobs
        ]
        try:
            return launcher_torch.launch(processes, combined.work, job_configs)
        except DistributedError as error:
            return error.exit_code

    assert launch(1, ("of1", 0)) == 0
    assert launch(2, ("of2", 0), ("moved", 5)) == DistributedError.exit_code
    assert launch(4, ("of4", 0), ("moved", 10)) == DistributedError.exit_code
    assert launch(1, ("moved", 0)) == 0
    return path


def trained_sequences(folder: Path, name: str) -> dict[int, list[int]]:
    """Return the sequences of each step in rank order; of a step that ran twice, those of the second time."""
    steps: dict[int, list[int]] = {}
    for file in sorted(folder.glob(f"{name}.*.rows")):
        taken = dict(json.loads(line) for line in file.read_text().splitlines())
        for step, sequences in taken.items():
            steps.setdefault(step, []).extend(sequences)
    return steps


@pytest.mark.slow
@pytest.mark.fault("A21", cases=2)
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_trains_on_the_same_sequences_in_the_same_order(processes: int, folder: Path) -> None:
    single_rank = trained_sequences(folder, "of1")
    assert sorted(single_rank) == list(range(1, combined.STEPS + 1))
    assert len({sequence for sequences in single_rank.values() for sequence in sequences}) > 100
    assert trained_sequences(folder, f"of{processes}") == single_rank


@pytest.mark.slow
@pytest.mark.fault("A21", cases=3)
@pytest.mark.parametrize("name", ["of2", "of4", "moved"])
def test_it_ends_with_the_same_result_and_the_same_position(name: str, folder: Path) -> None:
    progress, expected = (load(RunDir.open(folder / out), "latest").checkpoint.progress for out in (name, "of1"))
    for part in ("step", "sequences", "tokens", "stream"):
        assert progress[part] == expected[part]
    for kind in ("train", "validation", "final"):
        losses = [[row["loss"] for row in tiny.metrics(folder / out) if row["kind"] == kind] for out in (name, "of1")]
        assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.fault("A21", cases=2)
def test_a_killed_run_resumes_with_another_number_of_processes_at_the_next_sequence(folder: Path) -> None:
    of1 = trained_sequences(folder, "of1")
    of_two_ranks = dict(json.loads(line) for line in (folder / "moved.1.rows").read_text().splitlines())
    of_four_ranks = dict(json.loads(line) for line in (folder / "moved.3.rows").read_text().splitlines())
    assert min(of_two_ranks) == 1
    assert 1 < min(of_four_ranks) <= 6, "resumed after the step at which the two ranks were killed"
    for step, sequences in of_four_ranks.items():
        assert sequences == of1[step][-len(sequences) :]
        assert len(sequences) == len(of1[step]) // 4
