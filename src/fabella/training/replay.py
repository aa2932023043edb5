"""A step that is not finite: kept in the run's folder when it happens, and taken again when it is looked into."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.engine.engine import Engine, StepResult
from fabella.engine.ranks import Place
from fabella.errors import NumericsError, StorageError
from fabella.runs import failures
from fabella.runs.failures import Failure
from fabella.runs.folder import RunFolder


class Keeping:
    """Takes steps with an engine; one that is not finite is kept in the run's folder before its error goes on.

    Of several processes every one has such a step at the same time; the first writes.
    """

    def __init__(self, engine: Engine, folder: RunFolder, place: Place) -> None:
        self.engine, self.folder, self.place = engine, folder, place

    def step(self, batch: Batch, lr: float) -> StepResult:
        """As the engine's own. Raises NumericsError that says where the step lies and how it is taken again."""
        try:
            result = self.engine.step(batch, lr)
        except NumericsError as error:
            raise self.kept(batch, lr, error) from error
        return _Kept(result, self, batch, lr)

    def kept(self, batch: Batch, lr: float, error: NumericsError) -> NumericsError:
        """Keep the step that ``error`` tells of, which must be the engine's last; the error to raise then."""
        state = self.engine.state()  # weights and moments before the step, for it was not taken; only the count is new
        step = int(state.numbers["step"])
        before = dataclasses.replace(state, numbers={**state.numbers, "step": step - 1})
        path = failures.place_of(self.folder, step)
        try:
            if self.place.first:
                failures.keep(self.folder, Failure(step, before, batch, lr, error.problem))
        except StorageError as unkept:
            return NumericsError(f"{error.problem} The step could not be kept: {unkept.problem}", fix=error.fix)
        return NumericsError(
            f"{error.problem} The step is kept in {path}.",
            fix=f"Look into it: fabella train --replay {quote(str(path))}. {error.fix}",
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """A result that is looked at later: on a GPU that is when a step that is not finite shows."""

    result: StepResult
    keeping: Keeping
    batch: Batch
    lr: float

    def read(self) -> dict[str, float]:
        try:
            return self.result.read()
        except NumericsError as error:
            raise self.keeping.kept(self.batch, self.lr, error) from error


@dataclass(frozen=True, slots=True)
class Replay:
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


def replay(path: Path, *, device: str = "auto") -> Replay:
    """Take the step kept in ``path`` (RUN/failures/step-…) again, and look on. Nothing in the run is changed.

    Blocks are not compiled, so that each module can be looked at. Raises CheckpointError where ``path`` is no such
    step, or damaged.
    """
    run = RunFolder.open(path.absolute().parent.parent).run
    run = run.model_copy(update={"training": run.training.model_copy(update={"compile": "none"})})
    failure = failures.read(path.absolute(), run.model.parameters())
    engine = engines.for_training(run, device=device)
    engine.restore(failure.state)
    error = ""
    with engines.load(run.engine, "replay").looking_on(engine) as found:
        try:
            engine.step(failure.batch, failure.lr).read()
        except NumericsError as again:
            error = again.problem
    return Replay(failure.step, failure.error, error, found[0] if found and error else "")
