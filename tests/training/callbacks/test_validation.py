"""Tests that a run validates at its cadence and at its last step, and that nothing else changes by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, TrainingInterrupted
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.training.callbacks.cadence import every_steps
from fabella.training.callbacks.validation import Validate
from fabella.training.eval_loss import EvalLoss
from fabella.training.loop import Progress
from fabella.training.run import resume, start_run
from tests.training import tiny
from tests.training.test_run import StopAt

CONSTANT = ("optimizer.schedule=[]", "validation.every_steps=7")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def validated(out: Path) -> list[int]:
    """Return the steps of the validation rows of a run."""
    return [row["step"] for row in tiny.metrics(out) if row["kind"] == "validation"]


@given(steps=st.integers(1, 40), every=st.integers(1, 50))
def test_the_last_validation_is_that_of_the_last_step_and_no_step_is_validated_twice(steps: int, every: int) -> None:
    rows: list[Any] = []
    validate = Validate(lambda: EvalLoss(3.0, 3.0, 1, "rule"), rows.append, due=every_steps(every), last_step=steps)
    for step in range(1, steps + 1):
        validate(Progress(step), None)  # type: ignore[arg-type]
        assert validate.scheduled == (step % every == 0)
    assert [row["step"] for row in rows] == sorted({*range(every, steps + 1, every), steps})


@pytest.mark.parametrize(
    ("engine", "cadence"),
    [
        ("torch", "every_steps=5"),
        ("torch", "every_steps=8"),
        ("torch", "every_epochs=100"),
        ("jax", "every_steps=200"),
    ],
)
def test_the_weights_of_the_last_step_can_be_the_best(
    engine: str, cadence: str, data: TokenizedDataset, tmp_path: Path
) -> None:
    if engine == "jax":
        pytest.importorskip("jax")
    run = tiny.run(f"engine={engine}", f"validation.{cadence}", "model.dropout=0", steps=8)
    result = start_run(run, tmp_path / "run", data, device="cpu")
    assert validated(result.path) == ([5, 8] if cadence == "every_steps=5" else [8])
    assert RunDir.open(result.path).read_pointer("best") == 8
    assert result.best is not None
    assert result.best.step == 8


def test_a_run_that_is_extended_has_one_row_more_and_the_same_weights(data: TokenizedDataset, tmp_path: Path) -> None:
    straight = start_run(tiny.run(*CONSTANT, steps=24), tmp_path / "straight", data, device="cpu").path
    extended = start_run(tiny.run(*CONSTANT, steps=10), tmp_path / "extended", data, device="cpu").path
    resume(extended, device="cpu", run=tiny.run(*CONSTANT, steps=24))
    assert validated(straight) == [7, 14, 21, 24]
    assert validated(extended) == [7, 10, 14, 21, 24]
    losses = [[row for row in tiny.metrics(out) if row["kind"] == "train"] for out in (straight, extended)]
    assert losses[0] == losses[1]
    states = [load(RunDir.open(out), "latest").checkpoint.state for out in (straight, extended)]
    for name, array in states[0].weights.items():
        assert np.array_equal(array, states[1].weights[name]), name


@pytest.mark.parametrize("step", [6, 9, 10])
def test_a_stopped_run_is_validated_once_at_its_last_step(step: int, data: TokenizedDataset, tmp_path: Path) -> None:
    straight = start_run(tiny.run(*CONSTANT, steps=10), tmp_path / "straight", data, device="cpu").path
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(tiny.run(*CONSTANT, steps=10), out, data, device="cpu", callbacks=[StopAt(step)])
    assert validated(out) == [of for of in (7, 10) if of <= step]
    resume(out, device="cpu")
    resume(out, device="cpu")
    assert validated(out) == [7, 10]
    assert tiny.metrics(out) == tiny.metrics(straight)


def test_disabled_validation_validates_no_step(data: TokenizedDataset, tmp_path: Path) -> None:
    result = start_run(tiny.run("validation.every_steps=0", steps=8), tmp_path / "run", data, device="cpu")
    assert validated(result.path) == []
    assert result.best is None
    assert [row["step"] for row in tiny.metrics(result.path) if row["kind"] == "final"] == [8]


def test_early_stopping_needs_validation() -> None:
    with pytest.raises(ConfigError, match="counts validations, and every_steps = 0 disables them"):
        tiny.run("validation.every_steps=0", "validation.early_stopping_patience=2")
    assert tiny.run("validation={every_steps: 0, every_epochs: 0.5, early_stopping_patience: 2}")
