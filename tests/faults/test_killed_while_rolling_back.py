"""Tests that a run killed at any file operation of a rollback ends with the bits of an uninterrupted run.

Row D11 of the fault matrix.
"""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as command
from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import TrainingInterrupted
from fabella.runs import failed_steps
from fabella.runs.run_dir import RunDir
from fabella.training import recovery
from fabella.training import run as training_run
from fabella.training.callbacks import checkpointing
from fabella.training.callbacks.divergence import Divergence
from fabella.training.run import resume, start_run
from tests.faults.injection import DIED, CallCount, die_at_call, no_action, run_in_child, watch_disk_calls
from tests.training import tiny
from tests.training.test_recovery import break_batches, token_checksum

POINTS = 15
"""Minimum number of file operations of a rollback."""
EVERY = 5
"""Every fifth is tried in every run of the suite, all of them at night."""
ROW_CALLS = 2
"""File operations after the rollback: those of its row in the metrics."""


@dataclass(frozen=True)
class Situation:
    """A run that fails at a step, and the step after which it is interrupted before."""

    policy: str
    fails_at: int
    stopped_at: int
    returns_to: int
    best_after: int | None
    """Best step right after the rollback"""
    steps: int
    every_steps: int
    """Interval of its checkpoints; validation is every 7 steps"""


SITUATIONS = {
    # Best checkpoint 14, which is not scheduled; the best one as of step 10 is that of step 7.
    "a best checkpoint later than the target": Situation("on_nonfinite.kind", 16, 15, 10, 7, 19, 10),
    "no checkpoint": Situation("on_nonfinite.kind", 4, 3, 0, None, 8, 10),
    "a divergence": Situation("on_divergence", 17, 16, 14, 14, 19, 5),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sound(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[int, float]]:
    """Return step → (checksum of its batch, its loss) of a run without a failure."""
    checksums: list[int] = []
    losses: dict[int, float] = {}
    step, check = TorchEngine.step, Divergence.check

    def recording_step(self: TorchEngine, batch: Batch, lr: float) -> Any:
        checksums.append(token_checksum(batch))
        return step(self, batch, lr)

    def recording_check(self: Divergence, number: int, loss: float) -> None:
        losses[number] = loss
        check(self, number, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "step", recording_step)
        patch.setattr(Divergence, "check", recording_check)
        start_run(tiny.run(steps=19), tmp_path_factory.mktemp("runs") / "sound", data, device="cpu")
    return {number: (checksums[number - 1], loss) for number, loss in losses.items()}


@pytest.fixture(params=SITUATIONS, ids=str)
def situation(
    request: pytest.FixtureRequest, sound: dict[int, tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> Situation:
    """Make the step of a situation fail, whenever its batch is repeated."""
    chosen = SITUATIONS[request.param]
    checksum, bad = sound[chosen.fails_at]
    if chosen.policy == "on_divergence":
        check = Divergence.check

        def diverge(self: Divergence, step: int, loss: float) -> None:
            check(self, step, loss)
            if loss == bad:
                self._report(step, {"kind": "divergence", "step": step, "loss": loss, "best": 1.0})  # pyright: ignore

        monkeypatch.setattr(Divergence, "check", diverge)
    else:
        break_batches(monkeypatch, {checksum})
    return chosen


def config(of: Situation) -> Any:
    settings = [f"checkpoint.every_steps={of.every_steps}", "checkpoint.keep_last=1", "samples.every_steps=6"]
    return tiny.run(f"training.{of.policy}=rollback", *settings, steps=of.steps)


def stopped(of: Situation, out: Path, data: TokenizedDataset) -> Path:
    def stop(progress: Any, result: Any) -> None:
        if progress.step == of.stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted):
        start_run(config(of), out, data, device="cpu", callbacks=[stop])
    return out


def roll_back_watched(out: Path, watched: CallCount) -> tuple[int, int]:
    """Resume to the end. Return the numbers of the first file operation of the rollback and of the first after it."""
    bounds: list[int] = []
    save_failed, roll_back = failed_steps.save, recovery.roll_back

    def saving(*arguments: Any) -> Any:
        bounds.append(len(watched.calls))
        return save_failed(*arguments)

    def rolling_back(*arguments: Any) -> Any:
        bounds.append(len(watched.calls))
        result = roll_back(*arguments)
        bounds.append(len(watched.calls))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failed_steps, "save", saving)
        patch.setattr(training_run, "roll_back", rolling_back)
        resume(out, device="cpu")
    return bounds[0], bounds[-1]


def record(out: Path) -> tuple[Any, ...]:
    """Return what must not depend on kills: bits, metrics and samples, the best step, the failed steps."""
    failures = {path.name: path.read_bytes() for path in sorted((out / "failures").rglob("*.safetensors"))}
    return tiny.fingerprint(out), RunDir.open(out).read_pointer("best"), failures


def check_kills(situation: Situation, data: TokenizedDataset, path: Path, *, every: int) -> None:
    """Kill a run at every ``every``-th file operation of its rollback; resumed, it must have the same record."""
    uninterrupted = record(start_run(config(situation), path / "straight", data, device="cpu").path)
    start = stopped(situation, path / "stopped", data)
    whole = Path(shutil.copytree(start, path / "whole"))
    with watch_disk_calls(no_action) as watched:
        first, after = roll_back_watched(whole, watched)
    assert record(whole) == uninterrupted
    assert command(["verify", str(whole)]) == 0
    points = range(first, after + ROW_CALLS)
    assert len(points) >= POINTS
    for point in points[::every]:
        killed = Path(shutil.copytree(start, path / "killed"))
        assert run_in_child(lambda: resume_and_die(killed, point)) == DIED  # noqa: B023 - run at once
        resume(killed, device="cpu")
        assert record(killed) == uninterrupted, watched.calls[point]
        shutil.rmtree(killed)


@pytest.mark.slow
@pytest.mark.fault("D11", cases=3 * POINTS // EVERY)
def test_killed_while_rolling_back_a_run_ends_with_the_same_bits(
    situation: Situation, data: TokenizedDataset, tmp_path: Path
) -> None:
    check_kills(situation, data, tmp_path, every=EVERY)


@pytest.mark.faults
@pytest.mark.fault("D11", cases=3 * POINTS)
def test_killed_at_any_file_operation_of_a_rollback_a_run_ends_with_the_same_bits(
    situation: Situation, data: TokenizedDataset, tmp_path: Path
) -> None:
    check_kills(situation, data, tmp_path, every=1)


def resume_and_die(out: Path, point: int) -> None:
    with watch_disk_calls(die_at_call(point)):
        resume(out, device="cpu")


def test_a_rollback_leaves_the_run_as_it_was_at_its_checkpoint(
    situation: Situation, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pointer names a checkpoint whose steps were taken back, and none of these checkpoints is left."""
    roll_back = recovery.roll_back

    def rolling_back(session: Any, failed: Any) -> Any:
        result = roll_back(session, failed)
        folder = RunDir.open(session.run_dir.path)
        assert [step for step in folder.steps() if step > situation.returns_to] == []
        assert folder.read_pointer("latest") == (situation.returns_to or None)
        assert folder.read_pointer("best") == situation.best_after
        seen.append(result[0].rollbacks)
        return result

    seen: list[int] = []
    monkeypatch.setattr(training_run, "roll_back", rolling_back)
    start_run(config(situation), tmp_path / "run", data, device="cpu")
    assert seen == [1]


@pytest.mark.fault("D11", cases=1)
def test_killed_between_a_best_checkpoint_and_its_pointer_the_next_resume_sets_the_pointer(
    data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def die_after_second_best(run_dir: RunDir, step: int) -> None:
        if step == 14:
            os._exit(DIED)
        run_dir.set_pointer("best", step)

    def train() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpointing, "set_best", die_after_second_best)
            start_run(tiny.run("checkpoint.every_steps=100", steps=15), out, data, device="cpu")

    assert run_in_child(train) == DIED
    folder = RunDir.open(out)
    assert (folder.read_pointer("latest"), folder.read_pointer("best")) == (14, 7)
    unvalidated = tiny.run("checkpoint.every_steps=100", "validation.every_steps=0", steps=15)
    resume(out, device="cpu", run=unvalidated)
    assert folder.read_pointer("best") == 14
