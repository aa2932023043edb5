"""Tests that a background save which fails, is killed or is slow never leaves a partial or wrong checkpoint.

Row A16 of the fault matrix.
"""

import errno
import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.engine.distributed.process_group import SingleProcess
from fabella.engine.engine import State
from fabella.errors import DiskFullError, StorageError
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, load
from fabella.runs.run_dir import RunDir
from fabella.tracking.background import BackgroundWorker
from fabella.training.callbacks import checkpointing
from fabella.training.callbacks.cadence import every_steps
from fabella.training.callbacks.checkpointing import SaveCheckpoint
from fabella.training.loop import Progress
from fabella.training.run import resume, start_run
from fabella.training.signals import Signals, SyncedSignals
from tests.faults.injection import DIED, die_at_call, fail_calls, no_action, run_in_child, watch_disk_calls
from tests.runs import stub
from tests.training import tiny

CYCLES = 100
KILLS = 4
TIMEOUT_SECONDS = 60.0
"""Timeout for waiting on another thread; a passing test never waits that long."""


class FakeEngine:
    """A stub engine whose state is that of the last step, in arrays that the next step overwrites."""

    def __init__(self) -> None:
        self.now = stub.checkpoint(0).state

    def step(self, step: int) -> None:
        new = stub.checkpoint(step).state
        for mine, theirs in ((self.now.weights, new.weights), (self.now.optimizer_state, new.optimizer_state)):
            for name, array in mine.items():
                array[...] = theirs[name]
        self.now = replace(self.now, scalars=new.scalars)

    def state(self) -> State:
        weights = {name: array.copy() for name, array in self.now.weights.items()}
        return State(
            weights, {name: array.copy() for name, array in self.now.optimizer_state.items()}, self.now.scalars
        )


class EmptyResult:
    def read(self) -> dict[str, float]:
        return {}


def make_save(
    run: RunConfig, run_dir: RunDir, engine: Any, worker: BackgroundWorker, printed: list[str]
) -> SaveCheckpoint:
    session: Any = SimpleNamespace(run=run, run_dir=run_dir, engine=engine, steps=10**6, print=printed.append)
    signals = SyncedSignals(Signals(), SingleProcess())
    return SaveCheckpoint(
        session, signals, worker, due=every_steps(run.checkpoint.every_steps), callback_state=lambda: {"best_loss": 0.5}
    )


def save_every_step(full: str = "stop") -> RunConfig:
    return stub.RUN.model_copy(
        update={"checkpoint": stub.RUN.checkpoint.model_copy(update={"every_steps": 1, "on_disk_full": full})}
    )


def steps(save: SaveCheckpoint, engine: FakeEngine, worker: BackgroundWorker, *numbers: int) -> None:
    """Run the parts of the training loop that the callback depends on."""
    for step in numbers:
        engine.step(step)
        worker.check()
        progress = Progress(step, 3 * step, 24 * step)
        save.signals(progress, EmptyResult())
        save(progress, EmptyResult())


def expected(step: int) -> Checkpoint:
    checkpoint = stub.checkpoint(step)
    return replace(checkpoint, progress={**checkpoint.progress, "best_loss": 0.5})


@pytest.mark.fault("A16", cases=CYCLES)
def test_a_failing_write_leaves_the_pointer_on_a_complete_checkpoint(quick_path: Path) -> None:
    chance = random.Random(16)
    with watch_disk_calls(no_action) as recorded:
        run_until_failure(quick_path / "rehearsal", 3)
    for cycle in range(CYCLES):
        point = chance.randrange(len(recorded.calls))
        folder = quick_path / str(cycle)
        with watch_disk_calls(fail_calls(errno.EIO, (recorded.calls[point][0],), from_call=chance.randrange(40))):
            failed_at = run_until_failure(folder, 3)
        if not (folder / "latest").exists():
            continue
        latest = load(RunDir.open(folder), "latest")
        assert stub.same(latest.checkpoint, expected(latest.step))
        # A save that fails while it prunes older checkpoints has written its own.
        assert failed_at is None or latest.step <= failed_at <= latest.step + 2, (
            "the error is raised within two steps of the failed save"
        )


def run_until_failure(path: Path, last: int) -> int | None:
    """Return the step at which the error was raised in the loop, or None without an error."""
    engine, printed, step = FakeEngine(), list[str](), 0
    try:
        with BackgroundWorker(printed.append) as worker:
            save = make_save(save_every_step(), stub.folder(path, run=save_every_step()), engine, worker, printed)
            for step in range(1, last + 1):
                steps(save, engine, worker, step)
    except StorageError:
        return step
    return None


@pytest.mark.fault("A16", cases=1)
def test_the_error_is_raised_at_the_next_step_and_nothing_is_saved_after_it(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempted: list[int] = []

    def fails(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        attempted.append(step)
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(checkpointing, "save", fails)
    engine, folder = FakeEngine(), stub.folder(quick_path / "run", run=save_every_step())
    with pytest.raises(DiskFullError), BackgroundWorker(print) as worker:  # noqa: PT012
        save = make_save(save_every_step(), folder, engine, worker, [])
        steps(save, engine, worker, 1)
        with pytest.raises(DiskFullError):
            steps(save, engine, worker, 2)
    assert attempted == [1]


@pytest.mark.fault("A16", cases=1)
def test_on_a_full_disk_the_save_is_retried_at_the_next_step(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempted: list[int] = []
    real_save = checkpointing.save

    def full_at_first(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        attempted.append(step)
        if len(attempted) == 1:
            raise DiskFullError("disk full: nothing free.")
        real_save(folder, step, snapshot, **marks)

    monkeypatch.setattr(checkpointing, "save", full_at_first)
    engine, printed = FakeEngine(), list[str]()
    run = stub.RUN.model_copy(update={"checkpoint": stub.RUN.checkpoint.model_copy(update={"on_disk_full": "retry"})})
    folder = stub.folder(quick_path / "run", run=run)
    with BackgroundWorker(printed.append) as worker:
        save = make_save(run, folder, engine, worker, printed)
        steps(save, engine, worker, *range(1, 11))
        worker.flush()
        steps(save, engine, worker, 11, 12)
    assert attempted == [10, 11]
    assert printed == ["Step 10 could not be saved; the next step will be: disk full: nothing free."]
    assert stub.same(load(folder, "latest").checkpoint, expected(11))


@pytest.mark.fault("A16", cases=2)
@pytest.mark.parametrize("end", ["interrupted", "last step"])
def test_a_failed_save_at_the_end_is_an_error(end: str, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(checkpointing, "save", full)
    run = save_every_step("retry")
    engine, folder = FakeEngine(), stub.folder(quick_path / "run", run=run)
    with BackgroundWorker(print) as worker:
        save = make_save(run, folder, engine, worker, [])
        save.signals.signals.stop_requested = end == "interrupted"
        save.session.steps = 1 if end == "last step" else 5
        with pytest.raises(DiskFullError):
            steps(save, engine, worker, 1)


# ---------------------------------------------------------------- complete runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an uninterrupted run that keeps all its checkpoints."""
    return start_run(tiny.run("checkpoint.keep_last=100"), tmp_path_factory.mktemp("runs") / "straight", data).path


@pytest.mark.fault("A16", cases=8)
@pytest.mark.fault("C11", cases=8)
def test_a_slow_writer_saves_the_state_of_the_step_that_was_due(
    uninterrupted: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each save is delayed until the loop has run another step. A checkpoint of the live weights would then differ
    from one of the snapshot. There is also never more than one save at a time."""
    counter, running, most_running = StepCounter(), 0, 0
    real_save = checkpointing.save

    def slow(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        counter.wait_for(min(step + 1, tiny.STEPS))
        real_save(folder, step, snapshot, **marks)
        running -= 1

    monkeypatch.setattr(checkpointing, "save", slow)
    out = start_run(tiny.run("checkpoint.keep_last=100"), tmp_path / "run", data, callbacks=[counter]).path
    assert most_running == 1
    saved = [load(RunDir.open(path), step).checkpoint for path in (out, uninterrupted) for step in range(5, 41, 5)]
    for slow_checkpoint, expected_checkpoint in zip(saved[:8], saved[8:], strict=True):
        assert stub.same(slow_checkpoint, expected_checkpoint)
    assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


class StepCounter:
    """A callback that publishes the current step to other threads."""

    def __init__(self) -> None:
        self.step, self.changed = 0, threading.Condition()

    def __call__(self, progress: Progress, result: Any) -> None:
        with self.changed:
            self.step = progress.step
            self.changed.notify_all()

    def wait_for(self, step: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.step >= step, TIMEOUT_SECONDS)


@pytest.mark.fault("A16", cases=KILLS)
def test_a_run_killed_during_a_background_save_resumes_to_the_same_bits(
    uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    chance = random.Random(7)

    def train(out: Path) -> Callable[[], None]:
        return lambda: (start_run(tiny.run("checkpoint.keep_last=100"), out, data), None)[1]

    with watch_disk_calls(no_action) as watched:
        train(tmp_path / "rehearsal")()
    for number in range(KILLS):
        out = tmp_path / str(number)
        with watch_disk_calls(die_at_call(chance.randrange(len(watched.calls) // 4, len(watched.calls) - 10))):
            assert run_in_child(train(out)) == DIED
        assert_no_row_is_missing(out)
        resume(out)
        assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


def assert_no_row_is_missing(out: Path) -> None:
    """Check that the metrics have each row up to the latest checkpoint."""
    saved = max(RunDir.open(out).steps(), default=0)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    due = [step for step in [1, *range(3, 41, 3)] if step <= saved]
    assert [row["step"] for row in rows if row["kind"] == "train" and row["step"] <= saved] == due
