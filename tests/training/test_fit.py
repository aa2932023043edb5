"""Tests that early stopping keeps the best weights and ends with the same bits, interrupted or not."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.errors import TrainingInterrupted
from fabella.runs.run_dir import RunDir
from fabella.training import eval_loss
from fabella.training.eval_loss import EvalLoss
from fabella.training.run import resume, start_run
from tests.training import tiny

EARLY_STOPPING = ("validation.every_steps=4", "validation.early_stopping_patience=3", "samples.every_steps=10")
# The third loss is the lowest; no later one is below it.
LOSSES = [5.0, 4.0, 3.0, 3.5, 3.0, 4.0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace validation: the losses are LOSSES, by the step of the engine, and the final loss is 9."""

    def validate(engine: Any, held_out: Any, docs: Any, chosen: Any, batch: int, rule: Any) -> EvalLoss:
        number = engine.steps // 4 - 1
        loss = LOSSES[number] if len(chosen) == 8 and number < len(LOSSES) else 9.0
        return EvalLoss(loss, loss, 100, rule.name)

    monkeypatch.setattr(eval_loss, "validate", validate)


def stop_at(step: int) -> Any:
    def callback(progress: Any, result: Any) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


def test_a_run_without_improvement_stops_early_and_prints_why(
    data: TokenizedDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = start_run(tiny.run(*EARLY_STOPPING), tmp_path / "run", data, device="cpu")
    assert outcome.progress.step == 24
    folder = RunDir.open(tmp_path / "run")
    assert (folder.read_pointer("latest"), folder.read_pointer("best")) == (24, 12)
    assert [row["step"] for row in tiny.metrics(tmp_path / "run") if row["kind"] == "final"] == [24]
    message = "Stopped at step 24: none of the last 3 validation losses was below 3.0000"
    assert f"{message} (validation.early_stopping_patience)." in capfd.readouterr().err


def test_an_early_stopped_run_continues_only_with_more_patience(data: TokenizedDataset, tmp_path: Path) -> None:
    out = start_run(tiny.run(*EARLY_STOPPING), tmp_path / "run", data, device="cpu").path
    before = tiny.fingerprint(out)
    assert resume(out, device="cpu").progress.step == 24
    assert tiny.fingerprint(out) == before
    patient = tiny.run("validation.every_steps=4", "validation.early_stopping_patience=0", "samples.every_steps=10")
    assert resume(out, device="cpu", run=patient).progress.step == tiny.STEPS


@pytest.mark.parametrize("step", [13, 20, 23, 24])
def test_an_interrupted_run_stops_early_at_the_same_step_with_the_same_bits(
    step: int, data: TokenizedDataset, tmp_path: Path
) -> None:
    uninterrupted = start_run(tiny.run(*EARLY_STOPPING), tmp_path / "straight", data, device="cpu").path
    out = tmp_path / "run"
    with pytest.raises(
        TrainingInterrupted, match=f"Stopped at step {step}" if step < 24 else "Stopped after the last step, 24"
    ):
        start_run(tiny.run(*EARLY_STOPPING), out, data, device="cpu", callbacks=[stop_at(step)])
    resume(out, device="cpu")
    assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


def test_the_validation_of_the_last_step_does_not_count_for_a_longer_run(
    data: TokenizedDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = start_run(tiny.run(*EARLY_STOPPING, steps=22), tmp_path / "run", data, device="cpu").path
    assert [row["step"] for row in tiny.metrics(out) if row["kind"] == "validation"] == [4, 8, 12, 16, 20, 22]
    assert "Stopped at step" not in capfd.readouterr().err
    before = tiny.fingerprint(out)
    assert resume(out, device="cpu").progress.step == 22
    assert tiny.fingerprint(out) == before
    assert resume(out, device="cpu", run=tiny.run(*EARLY_STOPPING)).progress.step == 24


def test_without_patience_a_run_trains_to_its_last_step(data: TokenizedDataset, tmp_path: Path) -> None:
    assert (
        start_run(tiny.run(*EARLY_STOPPING[:1], EARLY_STOPPING[2]), tmp_path / "run", data, device="cpu").progress.step
        == tiny.STEPS
    )
