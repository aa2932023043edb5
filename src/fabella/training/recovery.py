"""Restoring a session from a checkpoint, after a stop or after a non-finite step, and recording that step."""

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from shlex import quote
from typing import Literal

from fabella.config.training import RollBack
from fabella.data.batches import Batch
from fabella.engine.engine import State
from fabella.errors import CheckpointError, NonFiniteStepError, NumericsError, StorageError
from fabella.models.parameters import initial_weights
from fabella.optim.registry import zero_state
from fabella.run_config.run import RunConfig
from fabella.runs import failed_steps
from fabella.runs.checkpoint import Loaded, latest_scheduled, load, require_own_start, return_to
from fabella.runs.failed_steps import FailedStepRecord
from fabella.runs.metrics_log import truncate_logs
from fabella.tracking.tracker import Row
from fabella.training.callbacks.divergence import DivergedError
from fabella.training.loop import Progress
from fabella.training.session import ResumeState, TrainingSession
from fabella.training.setup.resolve_config import require_disk_space


class FailedStepError(NonFiniteStepError):
    """A non-finite step, saved in the run directory. The weights do not include it."""

    after: Progress
    """Progress after the step: where the data continues"""


class DivergedStepError(NumericsError):
    """A step at which the training has diverged."""

    step: int
    after: Progress
    """Progress after the step: where the data continues"""


class FailedStepRecorder:
    """Keep the batches whose results have not been read, and save the one whose step fails.

    On a GPU a non-finite step is noticed when a result is read, some steps later; batches are kept until then.
    All ranks notice it at the same step; rank 0 saves it.
    """

    def __init__(self, session: TrainingSession, progress: Progress, last_read: Callable[[], int]) -> None:
        """``last_read``: number of the latest step whose result has been read."""
        self.session, self.progress, self.last_read = session, progress, last_read
        self._unread: dict[int, tuple[Batch, float, Progress]] = {}

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches."""
        for batch in batches:
            for step in [step for step in self._unread if step <= self.last_read()]:
                del self._unread[step]
            lr = self.session.rate(self.progress.step, self.progress.rollbacks)
            self.progress = self.progress.advance(batch)
            self._unread[self.progress.step] = (batch, lr, self.progress)
            yield batch

    @contextmanager
    def recording(self) -> Generator[None]:
        """Save the step of a NonFiniteStepError raised in the block, and raise FailedStepError instead.

        With ``training.on_divergence: rollback``, raise DivergedStepError instead of DivergedError.
        """
        try:
            yield
        except DivergedError as error:
            if self.session.run.training.on_divergence != "rollback":
                raise
            diverged = DivergedStepError(error.message, hint=error.hint)
            diverged.step, diverged.after = error.step, self._unread[error.step][2]
            raise diverged from error
        except NonFiniteStepError as error:
            raise self.record(error) from error

    def record(self, error: NonFiniteStepError) -> FailedStepError:
        """Save the failed step and return the error to raise. The engine has taken no step after it."""
        batch, lr, after = self._unread[error.step]
        run_dir, state = self.session.run_dir, self.session.engine.state()
        before = dataclasses.replace(state, scalars={**state.scalars, "step": error.step - 1})
        path = failed_steps.path_for(run_dir, error.step)
        message = f"{error.message} The step is saved in {path}."
        hint = f"Investigate it with: fabella replay-step {quote(str(path))}. {error.hint}"
        try:
            if self.session.is_main:
                failed_steps.save(run_dir, FailedStepRecord(error.step, before, batch, lr, error.message))
        except StorageError as unsaved:
            message, hint = f"{error.message} The step could not be saved: {unsaved.message}", error.hint
        failed = FailedStepError(message, hint=hint, step=error.step)
        failed.after = after
        return failed


def roll_back(
    session: TrainingSession, failed: FailedStepError | DivergedStepError
) -> tuple[Progress, ResumeState, Row]:
    """Restore a checkpoint. Return where to continue, its state, and a row for the metrics.

    After a non-finite step it is the latest scheduled checkpoint, after a divergence the best one, because later ones
    may have diverged already. The run continues with its weights and the data after the failed step; later checkpoints
    are removed. Those saved on a signal are not used: a run that was interrupted must come to the same weights as one
    that was not. Killed at any time, the run fails at the same step again when it is resumed, and is rolled back again.
    Raise the error if the config does not say ``rollback``; NumericsError after ``max_rollbacks``.
    """
    diverged = isinstance(failed, DivergedStepError)
    policy, position = session.run.training.rollback, failed.after
    if policy is None or not (diverged or isinstance(session.run.training.on_nonfinite, RollBack)):
        raise failed
    session.record.commit()
    if position.rollbacks == policy.max_rollbacks:
        raise NumericsError(
            f"{failed.message} The run has already been rolled back {policy.max_rollbacks} times "
            f"(training.{'on_divergence' if diverged else 'on_nonfinite'}).",
            hint=failed.hint,
        ) from failed
    session.print(failed.message)
    progress, saved = restore(session, "best" if diverged else "scheduled")
    if session.is_main:
        return_to(session.run_dir, progress.step, saved)
        truncate_logs(session.run_dir.path, progress.step)
    session.process_group.broadcast("rolled back")
    rollbacks = position.rollbacks + 1
    row = _rollback_row(progress, failed_step=position.step, rollbacks=rollbacks, policy=policy)
    if diverged:
        row = {**row, "diverged": 1}
    return dataclasses.replace(position, step=progress.step, rollbacks=rollbacks), saved, row


def _rollback_row(progress: Progress, *, failed_step: int, rollbacks: int, policy: RollBack) -> Row:
    """Return a row of the first step that is repeated.

    A run that is killed before it saves that step resumes from this checkpoint or an older one, fails again, and logs
    the row again.
    """
    return {
        "kind": "rollback",
        "step": progress.step + 1,
        "failed": failed_step,
        "times": rollbacks,
        "allowed": policy.max_rollbacks,
        "lr_factor": policy.lr_factor**rollbacks,
    }


def restore(
    session: TrainingSession, which: Literal["latest", "scheduled", "best"] = "latest"
) -> tuple[Progress, ResumeState]:
    """Load a checkpoint into the engine, or the initial state if there is none. Nothing is written.

    ``which``: the latest valid one, the latest one of ``checkpoint.every_steps``, or the best one.
    """
    loaded = _load(session, which)
    progress, saved = Progress(), dict[str, int | float | str]()
    if loaded is None:
        require_own_start(session.run_dir)
        session.print("No checkpoint yet: the run starts again at step 0.")
        session.engine.restore(initial_state(session.run))
    else:
        for warning in loaded.warnings:
            session.print(warning)
        saved = dict(loaded.checkpoint.progress)
        session.engine.restore(_reset(loaded.checkpoint.state, session.run, loaded.step))
        progress = _parse_progress(saved, loaded.step)
    if session.is_main and progress.step < session.steps and which == "latest":
        require_disk_space(session.run_dir.path, session.run, existing=len(session.run_dir.steps()))
    return progress, saved


def first_state(session: TrainingSession) -> tuple[Progress, ResumeState]:
    """Return where a new run starts, and its state. Load the weights that it begins with, if it has a checkpoint."""
    loaded = _load(session, "latest")
    if loaded is None:
        return Progress(), {}
    session.engine.restore(loaded.checkpoint.state)
    saved = dict(loaded.checkpoint.progress)
    return _parse_progress(saved, loaded.step), saved


def _reset(state: State, run: RunConfig, step: int) -> State:
    """Return the state of a checkpoint, with an optimizer state of zeros if it is reset after this ``step``."""
    if step not in run.optimizer.reset_after:
        return state
    zeros = initial_state(run).optimizer_state
    return dataclasses.replace(state, optimizer_state=zeros, scalars={**state.scalars, "updates": 0})


def _load(session: TrainingSession, which: Literal["latest", "scheduled", "best"]) -> Loaded | None:
    """Return a checkpoint, chosen by rank 0."""
    run_dir, process_group = session.run_dir, session.process_group
    if session.is_main:
        if which == "scheduled":
            loaded = latest_scheduled(run_dir)
        elif which == "best":
            best = run_dir.read_pointer("best")
            loaded = None if best is None else load(run_dir, best)
        else:
            loaded = load(run_dir, "latest") if run_dir.steps() else None
        process_group.broadcast(str(loaded.step) if loaded else "")
        return loaded
    step = process_group.broadcast("")
    return load(run_dir, int(step)) if step else None


def _parse_progress(saved: Mapping[str, int | float | str], step: int) -> Progress:
    """Return the progress of a checkpoint. Raise CheckpointError if it is incomplete."""
    if missing := [name for name in ("step", "sequences", "tokens") if name not in saved]:
        raise CheckpointError(f"The checkpoint of step {step} lacks the progress of the run: {missing[0]}.")
    return Progress(
        int(saved["step"]),
        int(saved["sequences"]),
        int(saved["tokens"]),
        stream=str(saved.get("stream", "")),
        rollbacks=int(saved.get("rollbacks", 0)),
    )


def initial_state(run: RunConfig) -> State:
    """Return the state of an engine before its first step."""
    table = run.model.parameters()
    zeros = zero_state(run.trainable_parameters, run.optimizer)
    return State(initial_weights(table, run.seed), zeros, {"step": 0, "updates": 0})
