"""Saving worker the loop: it may fail, die or be slow, and never is there half a checkpoint or a wrong one.

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
DEATHS = 4
LONG = 60.0
"""Seconds after which a test that waits for another thread gives up; it never waits that long when all is well."""


class Trained:
    """An engine in name only: its state is that of the last step, in arrays that the next step overwrites."""

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


class Result:
    def read(self) -> dict[str, float]:
        return {}


def saving(run: RunConfig, run_dir: RunDir, engine: Any, worker: BackgroundWorker, said: list[str]) -> SaveCheckpoint:
    session: Any = SimpleNamespace(run=run, run_dir=run_dir, engine=engine, steps=10**6, print=said.append)
    signals = SyncedSignals(Signals(), SingleProcess())
    return SaveCheckpoint(
        session, signals, worker, due=every_steps(run.checkpoint.every_steps), callback_state=lambda: {"best_loss": 0.5}
    )


def every_step(full: str = "stop") -> RunConfig:
    return stub.RUN.model_copy(
        update={"checkpoint": stub.RUN.checkpoint.model_copy(update={"every_steps": 1, "on_disk_full": full})}
    )


def steps(save: SaveCheckpoint, engine: Trained, worker: BackgroundWorker, *numbers: int) -> None:
    """The loop, as far as saving sees it."""
    for step in numbers:
        engine.step(step)
        worker.check()
        progress = Progress(step, 3 * step, 24 * step)
        save.signals(progress, Result())
        save(progress, Result())


def expected(step: int) -> Checkpoint:
    made = stub.checkpoint(step)
    return replace(made, progress={**made.progress, "best_loss": 0.5})


@pytest.mark.fault("A16", cases=CYCLES)
def test_a_failing_write_leaves_the_pointer_on_a_complete_checkpoint(quick_path: Path) -> None:
    chance = random.Random(16)
    with watch_disk_calls(no_action) as watched:
        run_until_failure(quick_path / "rehearsal", 3)
    for cycle in range(CYCLES):
        point = chance.randrange(len(watched.calls))
        folder = quick_path / str(cycle)
        with watch_disk_calls(fail_calls(errno.EIO, (watched.calls[point][0],), from_call=chance.randrange(40))):
            failed_at = run_until_failure(folder, 3)
        if not (folder / "latest").exists():
            continue
        newest = load(RunDir.open(folder), "latest")
        assert stub.same(newest.checkpoint, expected(newest.step))
        # A save that fails in its last moments, while older ones are removed, has been made all the same.
        assert failed_at is None or newest.step <= failed_at <= newest.step + 2, "told by the step after it"


def run_until_failure(path: Path, last: int) -> int | None:
    """The step that the loop had come to when the error reached it; None where there was none."""
    engine, said, step = Trained(), list[str](), 0
    try:
        with BackgroundWorker(said.append) as worker:
            save = saving(every_step(), stub.folder(path, run=every_step()), engine, worker, said)
            for step in range(1, last + 1):
                steps(save, engine, worker, step)
    except StorageError:
        return step
    return None


@pytest.mark.fault("A16", cases=1)
def test_the_error_is_raised_at_the_next_step_and_nothing_is_saved_after_it(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fails(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        asked.append(step)
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(checkpointing, "save", fails)
    engine, folder = Trained(), stub.folder(quick_path / "run", run=every_step())
    with pytest.raises(DiskFullError), BackgroundWorker(print) as worker:  # noqa: PT012
        save = saving(every_step(), folder, engine, worker, [])
        steps(save, engine, worker, 1)
        with pytest.raises(DiskFullError):
            steps(save, engine, worker, 2)
    assert asked == [1]


@pytest.mark.fault("A16", cases=1)
def test_on_a_full_disk_the_save_is_retried_at_the_next_step(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    whole = checkpointing.save

    def full_at_first(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        tried.append(step)
        if len(tried) == 1:
            raise DiskFullError("disk full: nothing free.")
        whole(folder, step, snapshot, **marks)

    monkeypatch.setattr(checkpointing, "save", full_at_first)
    engine, said = Trained(), list[str]()
    run = stub.RUN.model_copy(update={"checkpoint": stub.RUN.checkpoint.model_copy(update={"on_disk_full": "retry"})})
    folder = stub.folder(quick_path / "run", run=run)
    with BackgroundWorker(said.append) as worker:
        save = saving(run, folder, engine, worker, said)
        steps(save, engine, worker, *range(1, 11))
        worker.flush()
        steps(save, engine, worker, 11, 12)
    assert tried == [10, 11]
    assert said == ["Step 10 could not be saved; the next step will be: disk full: nothing free."]
    assert stub.same(load(folder, "latest").checkpoint, expected(11))


@pytest.mark.fault("A16", cases=2)
@pytest.mark.parametrize("end", ["interrupted", "last step"])
def test_a_failed_save_at_the_end_is_an_error(end: str, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(checkpointing, "save", full)
    run = every_step("retry")
    engine, folder = Trained(), stub.folder(quick_path / "run", run=run)
    with BackgroundWorker(print) as worker:
        save = saving(run, folder, engine, worker, [])
        save.signals.signals.stop_requested = end == "interrupted"
        save.session.steps = 1 if end == "last step" else 5
        with pytest.raises(DiskFullError):
            steps(save, engine, worker, 1)


# ---------------------------------------------------------------- whole trainings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, all its checkpoints kept."""
    return start_run(tiny.run("checkpoint.keep_last=100"), tmp_path_factory.mktemp("runs") / "straight", data).folder


@pytest.mark.fault("A16", cases=8)
@pytest.mark.fault("C11", cases=8)
def test_a_slow_writer_saves_the_state_of_the_step_that_was_due(
    straight: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every save is held back until the loop has taken another step: with its weights in place of the snapshot's,
    the checkpoint would be another one. And there is never a second save beside the first."""
    reached, under_way, most = Reached(), 0, 0
    whole = checkpointing.save

    def slow(folder: RunDir, step: int, snapshot: Checkpoint, **marks: bool) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        reached.wait_for(min(step + 1, tiny.STEPS))
        whole(folder, step, snapshot, **marks)
        under_way -= 1

    monkeypatch.setattr(checkpointing, "save", slow)
    out = start_run(tiny.run("checkpoint.keep_last=100"), tmp_path / "run", data, callbacks=[reached]).folder
    assert most == 1
    saved = [load(RunDir.open(path), step).checkpoint for path in (out, straight) for step in range(5, 41, 5)]
    for slowly, straightly in zip(saved[:8], saved[8:], strict=True):
        assert stub.same(slowly, straightly)
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)


class Reached:
    """An observer that other threads can wait for."""

    def __init__(self) -> None:
        self.step, self.changed = 0, threading.Condition()

    def __call__(self, progress: Progress, result: Any) -> None:
        with self.changed:
            self.step = progress.step
            self.changed.notify_all()

    def wait_for(self, step: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.step >= step, LONG)


@pytest.mark.fault("A16", cases=DEATHS)
def test_a_run_killed_during_a_background_save_resumes_to_the_same_bits(
    straight: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    chance = random.Random(7)

    def train(out: Path) -> Callable[[], None]:
        return lambda: (start_run(tiny.run("checkpoint.keep_last=100"), out, data), None)[1]

    with watch_disk_calls(no_action) as watched:
        train(tmp_path / "rehearsal")()
    for number in range(DEATHS):
        out = tmp_path / str(number)
        with watch_disk_calls(die_at_call(chance.randrange(len(watched.calls) // 4, len(watched.calls) - 10))):
            assert run_in_child(train(out)) == DIED
        assert_no_row_is_missing(out)
        resume(out)
        assert tiny.fingerprint(out) == tiny.fingerprint(straight)


def assert_no_row_is_missing(out: Path) -> None:
    """Up to the newest checkpoint every row is there: the file stands for all that was learned so far."""
    saved = max(RunDir.open(out).steps(), default=0)
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    due = [step for step in [1, *range(3, 41, 3)] if step <= saved]
    assert [row["step"] for row in told if row["kind"] == "train" and row["step"] <= saved] == due
