"""The rule by which weights are averaged during a training, the same for both engines."""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config.optimizer import AverageConfig, ExponentialAverage, MeanAverage
from fabella.errors import CheckpointError

AVERAGED, AVERAGE_START = "averaged", "average_start"
"""Scalars of a checkpoint: how many weights its average has, and the step after which a mean began."""
WARM_UP = 9.0
"""Of an exponential moving average. Its share of new weights is at least 9 / (9 + n), so that the average of n weights
is mostly that of the last n / 9. TensorFlow has the same: decay min(decay, (1 + t) / (10 + t)) with t = n - 1."""


@dataclass(frozen=True, slots=True)
class AverageRule:
    """How new weights are added to the average of n weights: ``average += share * (weights - average)``.

    share = max(``min_share``, ``warm_up`` / (``warm_up`` + n)). The first weights have a share of 1.
    """

    start: int
    """Training steps after which the average begins"""
    min_share: float
    warm_up: float
    is_mean: bool

    @classmethod
    def create(cls, config: AverageConfig) -> "AverageRule | None":
        """Return the rule of a config; None for no average.

        A percentage as ``start``, which the config of a run does not have, counts as 0: a measurement of a few steps
        takes them as those that are averaged.
        """
        match config:
            case ExponentialAverage(decay=decay):
                return cls(0, 1.0 - decay, WARM_UP, is_mean=False)
            case MeanAverage(start=start):
                return cls(start if isinstance(start, int) else 0, 0.0, 1.0, is_mean=True)
            case _:
                return None

    def scalars(self, count: int) -> dict[str, int | float]:
        """Return what a checkpoint says of an average of ``count`` weights."""
        return {AVERAGED: count, **({AVERAGE_START: self.start} if self.is_mean else {})}

    def saved_count(self, average: Mapping[str, object], scalars: Mapping[str, int | float]) -> int:
        """Return how many weights the ``average`` of a checkpoint has; 0 if this rule begins another one.

        An exponential moving average continues with another decay. Raise CheckpointError if the average is missing.
        """
        count = int(scalars.get(AVERAGED, 0))
        if not count or scalars.get(AVERAGE_START) != self.scalars(0).get(AVERAGE_START):
            return 0
        if not average:
            raise CheckpointError(
                f"Checkpoint has no average of the weights, but {count:,} of them were averaged; training cannot "
                "resume exactly.",
                hint="Resume from another checkpoint, or without an average: optimizer.average.kind=none.",
            )
        return count
