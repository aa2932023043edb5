"""Cadence of a callback: every N steps, or every N epochs."""

import math
from collections.abc import Callable
from typing import Protocol

from fabella.config.training import TrainingConfig
from fabella.data.modes.mode import data_mode
from fabella.training.loop import Progress
from fabella.training.schedule import batch_size_at
from fabella.training.session import TrainingSession

Due = Callable[[Progress], bool]
"""Returns whether a callback acts after the step that led to this progress."""
TOLERANCE = 1e-9
"""Share of an interval that rounding may lack at its end, as in 10 times 0.1 epochs."""


class CadenceConfig(Protocol):
    """A config section with a cadence. 0 epochs: the steps decide."""

    @property
    def every_steps(self) -> int:
        """Steps between two calls, if ``every_epochs`` is 0."""
        ...

    @property
    def every_epochs(self) -> float:
        """Epochs between two calls; 0 for a cadence in steps."""
        ...


def cadence(session: TrainingSession, config: CadenceConfig) -> Due:
    """Return the cadence of a config section in a run."""
    if not config.every_epochs:
        return every_steps(config.every_steps)
    run = session.run
    sequences = data_mode(run.data.mode.kind).count_sequences(run.data, session.dataset)
    assert sequences, "the config refuses epochs of a stream"
    return every_epochs(config.every_epochs, sequences, run.training)


def every_steps(steps: int) -> Due:
    """Return the cadence of every ``steps`` steps; 0 is never."""
    return lambda progress: steps > 0 and progress.step % steps == 0


def every_epochs(epochs: float, epoch_sequences: int, training: TrainingConfig) -> Due:
    """Return the cadence of the steps that complete ``epochs`` passes over ``epoch_sequences`` sequences."""
    interval = epochs * epoch_sequences

    def due(progress: Progress) -> bool:
        before = progress.sequences - batch_size_at(training, progress.step - 1)
        return _completed(progress.sequences, interval) > _completed(before, interval)

    return due


def _completed(sequences: int, interval: float) -> int:
    return math.floor(sequences / interval + TOLERANCE)
