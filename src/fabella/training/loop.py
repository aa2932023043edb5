"""The training loop: feed batches to the engine and call the callbacks after each step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from fabella.data.batches import Batch
from fabella.engine.engine import Engine, StepResult


@dataclass(frozen=True, slots=True)
class Progress:
    """Position of a run. Sequences and tokens before a rollback count, because they are not used again."""

    step: int = 0
    """Training steps"""
    sequences: int = 0
    """Training sequences used: the position in the data"""
    tokens: int = 0
    """Targets learned from, without padding"""
    stream: str = ""
    """State of the stream of a streaming dataset"""
    rollbacks: int = 0
    """Returns to a checkpoint after a non-finite step"""

    def advance(self, batch: Batch) -> "Progress":
        """Return the progress after a step on ``batch``."""
        return Progress(
            self.step + 1,
            self.sequences + len(batch.tokens),
            self.tokens + batch.num_targets,
            stream=batch.stream,
            rollbacks=self.rollbacks,
        )


class Callback(Protocol):
    """Called after every step with the progress after it and the result of it.

    A callback has its cadence in its constructor (``every=``) and ignores other steps. ``result.read()`` waits for the
    device, so read it only where the metrics are needed. A callback must not change what is learned.
    """

    def __call__(self, progress: Progress, result: StepResult) -> None: ...


class StopTraining(Exception):  # noqa: N818 - the regular end of a training, not an error
    """Raised by a callback to end the training after this step. The step is saved and the final loss is measured."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """Argument of a user callback: the step that was just taken."""

    progress: Progress
    result: StepResult
    """``result.read()`` returns ``loss``, ``grad_norm`` etc. It waits for the device."""
    engine: Engine

    @property
    def model(self) -> Any:
        """The model being trained: an ``nn.Module`` with engine ``torch``."""
        engine: Any = self.engine
        return engine.model


UserCallback = Callable[[TrainingStep], None]


class UserCallbacks:
    """Callback that calls those of ``fabella.train(..., callbacks=[...])``."""

    def __init__(self, callbacks: Sequence[UserCallback], engine: Engine) -> None:
        self.callbacks, self.engine = callbacks, engine
        self.should_stop = False
        """Whether one of them has raised StopTraining"""

    def __call__(self, progress: Progress, result: StepResult) -> None:
        for callback in self.callbacks:
            try:
                callback(TrainingStep(progress, result, self.engine))
            except StopTraining:
                self.should_stop = True


def callback_name(callback: UserCallback) -> str:
    """Return the name of a user callback for the manifest, e.g. ``my_module.log_norms``."""
    named: Any = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{named.__module__}.{named.__qualname__}"


def train(
    engine: Engine,
    batches: Iterator[Batch],
    rate: Callable[[int], float],
    callbacks: Sequence[Callback],
    *,
    progress: Progress,
    until: int,
) -> Progress:
    """Run training steps from ``progress`` up to step ``until``. An exception raised by a callback ends the training.

    Return early, without an error, if it is StopTraining. ``batches`` starts at ``progress.sequences``.
    ``rate(step)`` is the learning rate of a step, counted from 0.
    """
    with suppress(StopTraining):
        while progress.step < until:
            batch = next(batches)
            result = engine.step(batch, rate(progress.step))
            progress = progress.advance(batch)
            for callback in callbacks:  # metrics, validation, samples, checkpoints
                callback(progress, result)
    return progress
