"""Tests of cadences in epochs, permanent checkpoints and the validation batch size, in both engines."""

from pathlib import Path
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.training.run import resume, start_run
from tests.training import tiny

ENGINES = ("torch", "jax")
STEPS = 16
# A single global batch size, because JAX compiles a step for each.
SHORT = (
    "model.layers=1",
    "training.gradient_accumulation=[[0, 2]]",
    "samples.max_tokens=4",
    "checkpoint.every_steps=5",
)


class KilledError(Exception):
    """Stands for a process that is killed."""


def kill_at(step: int) -> Any:
    def callback(progress: Any, result: Any) -> None:
        if progress.step == step:
            raise KilledError

    return callback


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "jax":
        pytest.importorskip("jax")
    return str(request.param)


EPOCHS = (
    "validation.every_epochs=0.05",
    "validation.batch_size=3",
    "checkpoint.every_epochs=0.1",
    "samples.every_epochs=0.2",
    "checkpoint.keep_last=1",
    "checkpoint.keep_every_steps=6",
    "checkpoint.milestones=[doubling, 3]",
)


def test_a_run_with_cadences_in_epochs_and_kept_checkpoints_ends_with_the_same_bits_when_killed(
    engine: str, data: TokenizedDataset, tmp_path: Path
) -> None:
    run = tiny.run(*SHORT, *EPOCHS, f"engine={engine}", steps=STEPS)
    uninterrupted = start_run(run, tmp_path / "straight", data).folder
    with pytest.raises(KilledError):
        start_run(run, tmp_path / "run", data, callbacks=[kill_at(7)])
    with pytest.raises(KilledError):
        resume(tmp_path / "run", callbacks=[kill_at(14)])
    resume(tmp_path / "run")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)
    for folder in (uninterrupted, tmp_path / "run"):
        permanent = {1, 2, 3, 4, 6, 8, 12, 16}
        steps = set(RunDir.open(folder).steps())
        assert permanent <= steps
        assert len(steps - permanent) <= 2, "the best one, and the one that was loaded"


def test_validation_with_another_batch_size_gives_the_same_losses(data: TokenizedDataset, tmp_path: Path) -> None:
    losses = []
    for size in (0, 3):
        out = start_run(tiny.run(*SHORT, f"validation.batch_size={size}", steps=7), tmp_path / str(size), data).folder
        losses.append([row["loss"] for row in tiny.metrics(out) if row["kind"] in {"validation", "final"}])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert load(RunDir.open(tmp_path / "3"), "best").step == 7
