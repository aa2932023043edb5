"""A step that is not finite: kept in the run's folder when it happens, and taken again when it is looked into."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fabella.config.training import Stop
from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import RankInfo
from fabella.engine.engine import Engine, StepResult
from fabella.errors import NonFiniteStepError, StorageError
from fabella.optim.registry import state_spec
from fabella.runs import failed_steps
from fabella.runs.failed_steps import FailedStepRecord
from fabella.runs.run_dir import RunDir
from fabella.training.loop import Progress


class FailedStep(NonFiniteStepError):
    """A step that was not taken, and lies in the run's folder now; ``after``: where the data stands behind it."""

    after: Progress


class FailedStepRecorder:
    """Takes steps with an engine; one that fails is kept in the run's folder before its error goes on.

    Of several processes every one has such a step at the same time; the first writes. On a GPU it shows when a result
    is read, some steps later: batches are held until then. Raises FailedStep.
    """

    def __init__(self, engine: Engine, folder: RunDir, place: RankInfo, progress: Progress) -> None:
        self.engine, self.folder, self.place, self.progress = engine, folder, place, progress
        self._unread: dict[int, tuple[Batch, float, Progress]] = {}

    def step(self, batch: Batch, lr: float) -> StepResult:
        """As the engine's own. Its error says where the step lies and how it is taken again."""
        self.progress = self.progress.advance(batch)
        self._unread[self.progress.step] = (batch, lr, self.progress)
        try:
            result = self.engine.step(batch, lr)
        except NonFiniteStepError as error:
            raise self.record(error) from error
        return _Kept(result, self, self.progress.step)

    def confirm(self, step: int) -> None:
        """All steps up to ``step`` are known not to have failed."""
        for number in [number for number in self._unread if number <= step]:
            del self._unread[number]

    def record(self, error: NonFiniteStepError) -> FailedStep:
        """Keep the step that ``error`` tells of, after which the engine has taken none; the error to raise then."""
        batch, lr, after = self._unread[error.step]
        state = self.engine.state()
        before = dataclasses.replace(state, scalars={**state.scalars, "step": error.step - 1})
        path = failed_steps.path_for(self.folder, error.step)
        told = f"{error.message} The step is kept in {path}."
        fix = f"Look into it: fabella train --replay {quote(str(path))}. {error.hint}"
        try:
            if self.place.is_main:
                failed_steps.save(self.folder, FailedStepRecord(error.step, before, batch, lr, error.message))
        except StorageError as unkept:
            told, fix = f"{error.message} The step could not be kept: {unkept.message}", error.hint
        failed = FailedStep(told, hint=fix, step=error.step)
        failed.after = after
        return failed


@dataclass(frozen=True, slots=True)
class _Kept:
    """A result that is looked at later."""

    result: StepResult
    keeping: FailedStepRecorder
    step: int

    def read(self) -> dict[str, float]:
        try:
            values = self.result.read()
        except NonFiniteStepError as error:
            raise self.keeping.record(error) from error
        self.keeping.confirm(self.step)
        return values


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of a step that was taken again; ``error`` and ``module`` are empty where all was finite."""

    step: int
    before: str
    """the error when it happened"""
    error: str
    module: str
    """the first module whose output is not finite; empty where each one's is, and it began in the backward pass"""

    def __str__(self) -> str:
        if not self.error:
            return f"Step {self.step} did not fail again: everything was finite. Then it was: {self.before}"
        place = (
            f"The first output that is not finite is that of {self.module}."
            if self.module
            else "The outputs of all modules are finite: it began in the loss or in the backward pass."
        )
        again = "It failed again, the same:" if self.error == self.before else f"Then: {self.before} Now:"
        return f"{again} {self.error} {place}"


def replay(path: Path, *, device: str = "auto") -> ReplayReport:
    """Take the step kept in ``path`` (RUN/failures/step-…) again, and look on. Nothing in the run is changed.

    PyTorch takes it, whichever engine did, without compiling, so that each module can be looked at; none is left out.
    Raises CheckpointError where ``path`` is no such step, or damaged.
    """
    run = RunDir.open(path.absolute().parent.parent).run
    training = run.training.model_copy(update={"compile": "none", "on_nonfinite": Stop()})
    run = run.model_copy(update={"engine": "torch", "training": training})
    table = run.model.parameters()
    failure = failed_steps.read(path.absolute(), table, state_spec(table, run.optimizer))
    engine = engines.create_engine(run, device=device)
    engine.restore(failure.state)
    error = ""
    with engines.load(run.engine, "nan_finder").trace_nonfinite(engine) as found:
        try:
            engine.step(failure.batch, failure.lr).read()
        except NonFiniteStepError as again:
            error = again.message
    return ReplayReport(failure.step, failure.error, error, found[0] if found and error else "")
