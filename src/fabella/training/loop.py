"""The recipe: batches go through the engine, and observers look on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fabella.data.batches import Batch
from fabella.engine.engine import StepResult


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: optimizer steps, windows and targets used; where its stream stands, if it has one.

    ``rewinds``: how often it went back to a checkpoint; windows and targets that were used before are not used again.
    """

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    stream: str = ""
    rollbacks: int = 0

    def advance(self, batch: Batch) -> "Progress":
        """The progress once ``batch`` has been learned from."""
        return Progress(
            self.step + 1,
            self.sequences + len(batch.tokens),
            self.tokens + batch.num_targets,
            stream=batch.stream,
            rollbacks=self.rollbacks,
        )


class Stepper(Protocol):
    """What takes the steps: an engine, or what stands before one."""

    def step(self, batch: Batch, lr: float) -> StepResult:
        """See ``Engine.step``."""
        ...


Callback = Callable[[Progress, StepResult], None]
"""Is called after every step, in the order given: log, evaluate, sample, save. It never changes what is learned."""


def train(
    engine: Stepper,
    batches: Iterator[Batch],
    rate: Callable[[int], float],
    observers: Sequence[Callback],
    *,
    progress: Progress,
    until: int,
) -> Progress:
    """Take optimizer steps from where ``progress`` stands to step ``until``; ``rate(step)`` is the learning rate.

    ``batches`` must begin at ``progress.windows``. Whatever an observer raises ends the training.
    """
    while progress.step < until:
        batch = next(batches)
        result = engine.step(batch, rate(progress.step))
        progress = progress.advance(batch)
        for observe in observers:
            observe(progress, result)
    return progress
