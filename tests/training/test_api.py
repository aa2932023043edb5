"""Tests that ``fabella.train`` and ``fabella.resume`` check their arguments first, and call user callbacks."""

from pathlib import Path

import pytest
import torch

from fabella.errors import ConfigError, UsageError
from fabella.run_config.files import parse_yaml
from fabella.runs.run_dir import RunDir
from fabella.training import api
from fabella.training.loop import StopTraining, TrainingStep
from fabella.training.run import start_run
from tests.training import tiny


def test_an_unknown_device_is_rejected_before_data_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown device 'tpu'\. Choose from: auto,"):
        api.train("storybook-1m", device="tpu")
    assert list(tmp_path.iterdir()) == []


def test_a_run_cannot_end_before_its_latest_checkpoint(tmp_path: Path) -> None:
    out = start_run(tiny.run("samples.every_steps=3", steps=6), tmp_path / "run", tiny.prepared(tmp_path)).path
    before = tiny.fingerprint(out)
    with pytest.raises(
        ConfigError, match=r"training\.length\.max_steps = 4, but .* has already taken 6 steps\. Use more than 6"
    ):
        api.resume(out, settings={"training.length.max_steps": 4})
    assert (tiny.fingerprint(out), api.resume(out).progress.step) == (before, 6)


def small_run() -> dict[str, object]:
    """Settings of a tiny run as ``fabella.train`` takes them."""
    lines = [*tiny.SETTINGS, "samples.every_steps=100", "training.log_every_steps=1"]
    pairs = [line.partition("=") for line in lines]
    return {key: parse_yaml(f"value: {value}", where=key)["value"] for key, _, value in pairs}


def test_a_user_callback_reads_the_metrics_of_every_step_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[int, float] = {}

    def record(step: TrainingStep) -> None:
        assert isinstance(step.model, torch.nn.Module)
        seen[step.progress.step] = step.result.read()["loss"]

    out = api.train("storybook-1m", out="with", steps=6, device="cpu", settings=small_run(), callbacks=[record]).path
    plain = api.train("storybook-1m", out="without", steps=6, device="cpu", settings=small_run()).path
    assert {row["step"]: row["loss"] for row in tiny.metrics(out) if row["kind"] == "train"} == seen
    weights = [folder / "checkpoints" / "step-00000006" / "model.safetensors" for folder in (out, plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    names = RunDir.open(out).manifest["callbacks"]
    assert [name.rpartition(".")[2] for name in names] == ["record"]
    assert "callbacks" not in RunDir.open(plain).manifest


def test_a_user_callback_can_stop_the_training_which_is_saved_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def stop_at_three(step: TrainingStep) -> None:
        if step.progress.step == 3:
            raise StopTraining

    result = api.train("storybook-1m", steps=6, device="cpu", settings=small_run(), callbacks=[stop_at_three])
    assert result.progress.step == 3
    assert RunDir.open(result.path).steps()[-1] == 3
    assert [row["step"] for row in tiny.metrics(result.path) if row["kind"] == "final"] == [3]
    assert api.resume(result.path, device="cpu").progress.step == 6
    assert "warning: the run started with the callbacks [" in capsys.readouterr().err


def test_an_error_of_a_user_callback_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(step: TrainingStep) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        api.train("storybook-1m", steps=6, device="cpu", settings=small_run(), callbacks=[fail])


def test_the_arguments_equal_the_settings_and_the_result_has_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"seed", "training.micro_batch_size", "optimizer.lr"}
    small = {key: value for key, value in small_run().items() if key not in given}
    result = api.train("storybook-1m", out="run", steps=4, lr=2e-3, batch_size=2, seed=5, device="cpu", settings=small)
    run = RunDir.open(tmp_path / "run").run
    assert (run.optimizer.lr, run.training.micro_batch_size, run.seed) == (2e-3, 2, 5)
    rows = [row for row in tiny.metrics(result.path) if row["kind"] == "train"]
    assert result.losses == [(row["step"], row["loss"]) for row in rows] != []
    longer = api.resume("run", steps=6, lr=1e-3, batch_size=1)
    run = RunDir.open(tmp_path / "run").run
    assert (longer.progress.step, run.optimizer.lr, run.training.micro_batch_size) == (6, 1e-3, 1)
    assert repr(longer).startswith("TrainResult('run': 6 steps, ")


def test_steps_and_epochs_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="both set the length"):
        api.train("storybook-1m", steps=4, epochs=1.0)
    assert list(tmp_path.iterdir()) == []
