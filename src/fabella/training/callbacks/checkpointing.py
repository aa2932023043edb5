"""Save checkpoints, end the training where that is requested, and reset the optimizer."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import partial
from shlex import quote

from fabella.engine.engine import Engine, StepResult
from fabella.errors import DiskFullError, TrainingInterrupted
from fabella.runs.checkpoint import Checkpoint, save, set_best
from fabella.runs.checkpoint_validation import require_finite
from fabella.runs.run_dir import step_name
from fabella.tracking.background import Worker
from fabella.training.callbacks.cadence import Due
from fabella.training.loop import Progress, StopTraining
from fabella.training.session import PendingRecord, TrainingSession
from fabella.training.signals import SyncedSignals

OPTIONAL_PROGRESS = {"stream", "rollbacks"}
"""Fields of Progress that a checkpoint omits if they are empty."""

CallbackState = Mapping[str, float | str]


class CheckWorker:
    """Raise the error of a background task on the training thread."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self.worker.check()


class CommitRecord:
    """Write the changed record of a resumed run after its first step, unless that step has failed.

    Register it before all callbacks that write: what is refused or fails until then leaves the run as it was.
    """

    def __init__(self, record: PendingRecord) -> None:
        self.record: PendingRecord | None = record

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if self.record is not None:
            result.read()  # raises if the step has failed
            self.record.commit()
            self.record = None


class SaveCheckpoint:
    """Save at scheduled steps, at a new best loss, on request, and at the end. Then end the training if requested.

    The snapshot is taken on the training thread and written on the worker's. Only one exists at a time: a save waits
    until the previous one is on disk. A full disk ends the run; with ``checkpoint.on_disk_full: retry`` it is reported
    and the save is repeated at the next step. At the last step it is an error in any case.
    """

    def __init__(
        self,
        session: TrainingSession,
        signals: SyncedSignals,
        worker: Worker,
        *,
        due: Due,
        is_best: Callable[[], bool] = lambda: False,
        should_stop: Callable[[], bool] = lambda: False,
        callback_state: Callable[[], CallbackState] = dict,
        flush_metrics: Callable[[], None] = lambda: None,
    ) -> None:
        """``due``: steps that the config demands. ``is_best``, ``should_stop``: about the current step.

        ``callback_state``: saved with the progress.

        ``flush_metrics``: called before a checkpoint is written, because a resumed run needs its rows.
        """
        self.session, self.signals, self.worker, self.due = session, signals, worker, due
        self.is_best, self.should_stop = is_best, should_stop
        self.callback_state, self.flush_metrics = callback_state, flush_metrics
        self._failed_save: DiskFullError | None = None

    def __call__(self, progress: Progress, result: StepResult) -> None:
        steps, stop_requested = self.session.steps, self.signals.stop_requested
        last = progress.step == steps or self.should_stop()
        scheduled, keep = self.due(progress), self.session.run.checkpoint.keeps(progress.step)
        if scheduled or keep or last or self.is_best() or self.signals.save_requested or stop_requested:
            result.read()  # raises if the step has failed, before anything is saved
            self._save(progress, scheduled=scheduled or keep, keep=keep)
        if not last and not stop_requested:
            return
        self.worker.flush()
        if self._failed_save:
            raise self._failed_save
        if last and progress.step < steps:
            raise StopTraining
        if not last:
            raise TrainingInterrupted(
                f"Stopped at step {progress.step:,} of {steps:,}; everything is saved.",
                hint=f"Resume with: fabella resume {quote(str(self.session.run_dir.path))}",
            )

    def _save(self, progress: Progress, *, scheduled: bool, keep: bool) -> None:
        self.signals.save_requested = False
        self.worker.flush()
        self._failed_save = None
        snapshot = take_snapshot(self.session, progress, self.callback_state())
        write = partial(save, self.session.run_dir, progress.step, snapshot, scheduled=scheduled, keep=keep)
        self.worker.submit(partial(self._write, progress.step, snapshot, write, best=self.is_best()))

    def _write(self, step: int, snapshot: Checkpoint, write: Callable[[], None], *, best: bool) -> None:
        run_dir = self.session.run_dir
        state, where = snapshot.state, step_name(step)
        require_finite({**state.weights, **state.optimizer_state}, where=where)
        require_finite(state.average, where=f"{where}, average")
        try:
            self.flush_metrics()
            write()
            if best:
                set_best(run_dir, step)
        except DiskFullError as error:
            if self.session.run.checkpoint.on_disk_full == "stop":
                raise
            self._failed_save = error
            self.signals.retry_save()
            self.session.print(f"Step {step:,} could not be saved; the next step will be: {error}")


class ResetOptimizer:
    """Reset the optimizer state after the steps of ``optimizer.reset_after``.

    Register it after ``SaveCheckpoint``: a checkpoint has the state before the reset, and resuming resets it.
    """

    def __init__(self, engine: Engine, steps: Collection[int]) -> None:
        self.engine, self.steps = engine, steps

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step in self.steps:
            self.engine.reset_optimizer()


def take_snapshot(session: TrainingSession, progress: Progress, callback_state: CallbackState) -> Checkpoint:
    """Return everything that a later process needs to resume exactly."""
    values = {
        name: value for name, value in dataclasses.asdict(progress).items() if value or name not in OPTIONAL_PROGRESS
    }
    return Checkpoint(state=session.engine.state(), progress={**values, **callback_state})
