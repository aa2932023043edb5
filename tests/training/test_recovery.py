"""Tests of the policies for non-finite steps (stop, skip, roll back), with the same bits after any interruption."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.cli.main import run as command
from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine_torch
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import NumericsError, TrainingInterrupted
from fabella.runs.checkpoint import Checkpoint, load, save
from fabella.runs.run_dir import RunDir
from fabella.tracking.console import ConsoleTracker
from fabella.training.callbacks import checkpointing
from fabella.training.callbacks.divergence import Divergence
from fabella.training.run import resume, start_run
from tests.training import tiny

STEPS = 24
AVERAGE = "optimizer.average.kind=ema"
SKIP, ROLLBACK = "training.on_nonfinite.kind=skip", "training.on_nonfinite.kind=rollback"
# Checksums of the batches whose loss is NaN, so that a batch is broken whenever it is repeated.
Broken = set[int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def batches(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Return the checksum of each batch of an uninterrupted run, from step 1 on."""
    checksums: list[int] = []
    step = TorchEngine.step

    def recording_step(self: TorchEngine, batch: Batch, lr: float) -> Any:
        checksums.append(token_checksum(batch))
        return step(self, batch, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "step", recording_step)
        start_run(tiny.run(steps=STEPS + 8), tmp_path_factory.mktemp("runs") / "run", data, device="cpu")
    assert len(set(checksums)) == len(checksums)
    return checksums


def token_checksum(batch: Batch) -> int:
    return int((batch.tokens.astype(np.int64) * np.arange(1, batch.tokens.size + 1).reshape(batch.tokens.shape)).sum())


def break_batches(monkeypatch: pytest.MonkeyPatch, broken: Broken) -> None:
    """Make the loss and the gradients of these batches NaN."""
    step, update = TorchEngine.step, vars(TorchEngine)["_update"]
    is_broken: list[bool] = [False]

    def step_with_check(self: TorchEngine, batch: Batch, lr: float) -> Any:
        is_broken[0] = token_checksum(batch) in broken
        return step(self, batch, lr)

    def update_with_nan(self: TorchEngine, loss: Any, lr: float) -> Any:
        if is_broken[0]:
            loss = loss * torch.nan
            for parameter in self.model.parameters():
                parameter.grad *= torch.nan
        return update(self, loss, lr)

    monkeypatch.setattr(TorchEngine, "step", step_with_check)
    monkeypatch.setattr(TorchEngine, "_update", update_with_nan)


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in tiny.metrics(out) if row["kind"] == kind]


def has_finite_weights(out: Path) -> bool:
    return all(np.isfinite(a).all() for a in load(RunDir.open(out), "latest").checkpoint.state.weights.values())


def stop_after(step: int) -> Any:
    """Return a callback that stops the run after ``step``."""

    def callback(progress: Any, result: Any) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


# ---------------------------------------------------------------- skip


@pytest.mark.fault("D1", cases=1)
def test_skipped_steps_are_counted_and_printed(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    break_batches(monkeypatch, {batches[4], batches[9], batches[10]})
    outcome = start_run(tiny.run(SKIP, steps=STEPS), tmp_path / "run", data, device="cpu")
    assert outcome.progress.step == STEPS
    counted = {row["step"]: row["skipped_steps"] for row in rows(tmp_path / "run", "train")}
    assert [counted[step] for step in (3, 6, 9, 12, STEPS)] == [0, 1, 1, 3, 3]
    output = capfd.readouterr().err
    assert "step 6: 1 non-finite steps skipped so far" in output
    assert "step 12: 3 non-finite steps skipped so far" in output
    assert has_finite_weights(tmp_path / "run")
    state = load(RunDir.open(tmp_path / "run"), "latest").checkpoint.state
    assert (state.scalars["step"], state.scalars["updates"]) == (STEPS, STEPS - 3)


def test_a_skipped_step_leaves_weights_average_and_moments_as_they_were(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[5]})
    settings_of_run = [SKIP, AVERAGE, "checkpoint.every_steps=1", "checkpoint.keep_last=9"]
    folder = RunDir.open(start_run(tiny.run(*settings_of_run, steps=7), tmp_path / "run", data, device="cpu").path)
    before, after, later = (load(folder, step).checkpoint.state for step in (5, 6, 7))
    assert all(np.array_equal(before.weights[name], array) for name, array in after.weights.items())
    assert all(np.array_equal(before.average[name], array) for name, array in after.average.items())
    assert (before.scalars["averaged"], after.scalars["averaged"], later.scalars["averaged"]) == (5, 5, 6)
    assert all(np.array_equal(before.optimizer_state[name], array) for name, array in after.optimizer_state.items())
    assert not all(np.array_equal(before.weights[name], array) for name, array in later.weights.items())


def test_too_many_consecutive_skips_end_the_training_and_the_last_step_is_saved(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[2], *batches[6:9]})
    with pytest.raises(NumericsError, match=r"Step 9, the last of 3 in a row: loss nan; .* saved in .*step-00000009"):
        start_run(
            tiny.run(SKIP, "training.on_nonfinite.max_consecutive=3", steps=STEPS), tmp_path / "run", data, device="cpu"
        )


def test_a_run_with_skipped_steps_is_resumed_to_the_same_bits(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[4], batches[9], batches[10]})
    run = tiny.run(SKIP, AVERAGE, steps=STEPS)
    uninterrupted = start_run(run, tmp_path / "straight", data, device="cpu").path
    with pytest.raises(TrainingInterrupted):
        start_run(run, tmp_path / "run", data, device="cpu", callbacks=[stop_after(10)])
    resume(tmp_path / "run", device="cpu")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)


# ---------------------------------------------------------------- roll back


def train_with_rollback(data: TokenizedDataset, out: Path, *overrides: str, callbacks: Any = ()) -> Any:
    return start_run(tiny.run(ROLLBACK, AVERAGE, *overrides, steps=STEPS), out, data, device="cpu", callbacks=callbacks)


@pytest.mark.fault("D1", cases=1)
def test_a_rollback_restores_the_checkpoint_and_continues_with_later_sequences(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    steps_taken: list[tuple[int, int, float]] = []
    break_batches(monkeypatch, {batches[8]})
    step = TorchEngine.step

    def recording_step(self: TorchEngine, batch: Batch, lr: float) -> Any:
        steps_taken.append(
            (self.steps + 1, batches.index(token_checksum(batch)) + 1 if len(steps_taken) < 9 else 0, lr)
        )
        return step(self, batch, lr)

    monkeypatch.setattr(TorchEngine, "step", recording_step)
    outcome = train_with_rollback(
        data, tmp_path / "run", "optimizer.schedule=[]", "training.gradient_accumulation=[[0, 2]]"
    )
    assert [number for number, _, _ in steps_taken] == [*range(1, 10), *range(6, STEPS + 1)]
    rates = [lr for _, _, lr in steps_taken]
    assert rates[9:] == [rates[0] / 2] * (STEPS - 5)
    assert outcome.progress.rollbacks == 1
    assert outcome.progress.sequences == (STEPS + 4) * 16  # the sequences of steps 6 to 9 are not repeated
    assert rows(tmp_path / "run", "rollback") == [
        {"kind": "rollback", "step": 6, "failed": 9, "times": 1, "allowed": 3, "lr_factor": 0.5}
    ]
    assert [row["step"] for row in rows(tmp_path / "run", "train")] == [1, *range(3, STEPS + 1, 3)]
    assert (
        "rollback 1 of 3 to step 5, because step 9 was not finite; learning rate factor 0.5" in capfd.readouterr().err
    )
    assert (tmp_path / "run" / "failures" / "step-00000009").is_dir()
    assert has_finite_weights(tmp_path / "run")


@pytest.mark.parametrize("stops", [(6,), (8,), (9,), (15,), (8, 9, 11)], ids=str)
def test_a_rolled_back_run_is_resumed_to_the_same_bits(
    stops: tuple[int, ...], data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[8], batches[16]})
    uninterrupted = train_with_rollback(data, tmp_path / "straight").path
    with pytest.raises(TrainingInterrupted):
        train_with_rollback(data, tmp_path / "run", callbacks=[stop_after(stops[0])])
    for stop in stops[1:]:
        with pytest.raises(TrainingInterrupted):
            resume(tmp_path / "run", device="cpu", callbacks=[stop_after(stop)])
    resume(tmp_path / "run", device="cpu")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)


@pytest.mark.fault("D1", cases=1)
def test_a_run_killed_between_rollback_and_save_ends_with_the_same_bits(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[8], batches[9]})
    uninterrupted = train_with_rollback(data, tmp_path / "straight").path
    assert [row["times"] for row in rows(uninterrupted, "rollback")] == [2]  # both rollbacks restored the same step
    pid = os.fork()
    if pid == 0:

        def kill_after_rollback(progress: Any, result: Any) -> None:
            if progress.rollbacks == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        train_with_rollback(data, tmp_path / "run", callbacks=[kill_after_rollback])
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    resume(tmp_path / "run", device="cpu")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)


def test_the_rollback_checkpoint_survives_other_saves(data: TokenizedDataset, tmp_path: Path) -> None:
    def request_save(progress: Any, result: Any) -> None:
        if progress.step > 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    settings = ["checkpoint.keep_last=1", "validation.every_steps=100"]
    for policy, steps in (("rollback", [5, 9]), ("stop", [9])):
        run = tiny.run(f"training.on_nonfinite.kind={policy}", *settings, steps=9)
        assert RunDir.open(start_run(run, tmp_path / policy, data, callbacks=[request_save]).path).steps() == steps


def test_a_damaged_checkpoint_rolls_back_to_the_previous_one(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[11]})

    def save_and_damage(folder: RunDir, step: int, checkpoint: Checkpoint, **marks: bool) -> None:
        save(folder, step, checkpoint, **marks)
        if step == 10 and not rows(tmp_path / "run", "rollback"):
            weights = folder.checkpoints / "step-00000010" / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(
        checkpointing, "save", save_and_damage
    )  # on the thread that writes, so that the damage comes before the rollback
    train_with_rollback(data, tmp_path / "run", "checkpoint.keep_last=9")
    assert [row["step"] for row in rows(tmp_path / "run", "rollback")] == [6]


def test_a_rollback_without_a_checkpoint_restarts_with_later_sequences(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, {batches[1]})
    outcome = train_with_rollback(data, tmp_path / "run")
    assert (outcome.progress.step, outcome.progress.rollbacks) == (STEPS, 1)
    assert [row["step"] for row in rows(tmp_path / "run", "rollback")] == [1]


@pytest.mark.fault("D1", cases=1)
def test_rollbacks_are_limited(
    data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batches(monkeypatch, set(batches[8:]))
    with pytest.raises(NumericsError, match=r"Step 6: loss nan.*The run has already been rolled back 2 times"):
        train_with_rollback(data, tmp_path / "run", "training.on_nonfinite.max_rollbacks=2")
    assert has_finite_weights(tmp_path / "run")


# ---------------------------------------------------------------- asynchronous devices


@pytest.mark.fault("D1", cases=2)
@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_an_asynchronous_device_gives_the_same_result(
    policy: str, data: TokenizedDataset, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, a result is read at the next row at the earliest. The broken step is between two rows."""
    break_batches(monkeypatch, {batches[9]})  # step 10; rows are logged at 9 and 12

    def outcome(out: Path) -> Any:
        try:
            start_run(tiny.run(f"training.on_nonfinite.kind={policy}", steps=STEPS), out, data, device="cpu")
        except NumericsError as error:
            return str(error).replace(str(out), "")
        return tiny.fingerprint(out)

    synchronous = outcome(tmp_path / "at-once")

    def waits(device: torch.device) -> bool:
        return True

    monkeypatch.setattr(engine_torch, "waits", waits)
    assert outcome(tmp_path / "later") == synchronous
    saved_steps = [tmp_path / name / "failures" / "step-00000010" for name in ("at-once", "later")]
    for name in ("model.safetensors", "optimizer.safetensors", "batch.safetensors", "state.json"):
        assert (saved_steps[0] / name).read_bytes() == (saved_steps[1] / name).read_bytes(), name


def test_a_row_with_a_non_finite_loss_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleTracker(10, 1.0)(
        {"kind": "train", "step": 1, "loss": float("nan"), "tokens_per_second": 1.0, "skipped_steps": 1}
    )
    assert "loss nan" in capsys.readouterr().err


# ---------------------------------------------------------------- roll back after a divergence

DIVERGENCE = "training.on_divergence=rollback"


def train_through_divergence(data: TokenizedDataset, out: Path, callbacks: Any = ()) -> Any:
    return start_run(tiny.run(DIVERGENCE, steps=STEPS), out, data, device="cpu", callbacks=callbacks)


@pytest.fixture
def diverges_at_17(data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the detector see a divergence at the loss of step 17; after a rollback, other data have other losses."""
    seen: dict[int, float] = {}
    check = Divergence.check

    def record(self: Divergence, step: int, loss: float) -> None:
        seen[step] = loss
        check(self, step, loss)

    monkeypatch.setattr(Divergence, "check", record)
    start_run(tiny.run(steps=STEPS), tmp_path / "sound", data, device="cpu")
    bad = seen[17]

    def diverge(self: Divergence, step: int, loss: float) -> None:
        check(self, step, loss)
        if loss == bad:
            self._report(step, {"kind": "divergence", "step": step, "loss": loss, "best": 1.0})  # pyright: ignore

    monkeypatch.setattr(Divergence, "check", diverge)


@pytest.mark.usefixtures("diverges_at_17")
def test_a_divergence_returns_to_the_best_checkpoint_and_continues_with_later_sequences(
    data: TokenizedDataset, tmp_path: Path, capfd: Any
) -> None:
    result = train_through_divergence(data, tmp_path / "run")
    assert (result.progress.step, result.progress.rollbacks) == (STEPS, 1)
    assert rows(tmp_path / "run", "rollback") == [
        {"kind": "rollback", "step": 15, "failed": 17, "times": 1, "allowed": 3, "lr_factor": 0.5, "diverged": 1}
    ]
    assert rows(tmp_path / "run", "divergence") == []  # the rows of the steps that were taken back
    assert "rollback 1 of 3 to step 14, because step 17 diverged; learning rate factor 0.5" in capfd.readouterr().err
    assert command(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("stops", [(6,), (15,), (16,), (18,), (15, 16, 20)], ids=str)
@pytest.mark.usefixtures("diverges_at_17")
def test_a_run_that_is_rolled_back_after_a_divergence_resumes_to_the_same_bits(
    stops: tuple[int, ...], data: TokenizedDataset, tmp_path: Path
) -> None:
    uninterrupted = train_through_divergence(data, tmp_path / "straight").path
    with pytest.raises(TrainingInterrupted):
        train_through_divergence(data, tmp_path / "run", callbacks=[stop_after(stops[0])])
    for stop in stops[1:]:
        with pytest.raises(TrainingInterrupted):
            resume(tmp_path / "run", device="cpu", callbacks=[stop_after(stop)])
    resume(tmp_path / "run", device="cpu")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)


def test_a_training_that_always_diverges_ends_after_its_rollbacks(data: TokenizedDataset, tmp_path: Path) -> None:
    still_wild = "training.on_nonfinite={kind: rollback, max_rollbacks: 3, lr_factor: 0.9}"
    wild = [
        "optimizer.lr=10.0",
        "optimizer.max_grad_norm=1e9",
        "optimizer.schedule=[]",
        "samples.prompts=[]",
        still_wild,
    ]
    with pytest.raises(NumericsError, match=r"already been rolled back 3 times \(training\.on_divergence\)"):
        start_run(tiny.run(DIVERGENCE, *wild, steps=40), tmp_path / "run", data, device="cpu")
