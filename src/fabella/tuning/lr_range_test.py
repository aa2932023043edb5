"""Learning-rate range test: a short training in which the rate rises with each step (Smith 2017, arXiv 1506.01186)."""

import math
from contextlib import closing
from dataclasses import dataclass

from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine as engines
from fabella.engine.engine import StepResult
from fabella.errors import ConfigError, NumericsError
from fabella.run_config.run import RunConfig
from fabella.training.data_source import batches_from
from fabella.training.loop import Progress, train

MIN_RATE, MAX_RATE = 1e-6, 1.0
SMOOTHING = 0.9
"""Decay of the bias-corrected running mean of the loss, in [0, 1)."""
DIVERGED = 1.5
"""The test ends when the smoothed loss exceeds this many times its minimum."""


@dataclass(frozen=True, slots=True)
class RateTest:
    """Learning rates and the smoothed loss after a step at each, up to the divergence."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """Learning rate with the lowest loss."""
        return self.rates[self.losses.index(min(self.losses))]

    @property
    def steepest(self) -> float:
        """Learning rate at which the loss falls fastest per logarithm of the rate, before it is lowest."""
        end = self.losses.index(min(self.losses))
        falls = [self.losses[step] - self.losses[step + 1] for step in range(end)]
        return self.rates[falls.index(max(falls))] if falls else self.rates[0]


class _Diverged(Exception):  # noqa: N818 - the expected end of the test, not an error
    pass


def lr_range_test(run: RunConfig, dataset: TokenizedDataset, *, steps: int, device: str = "auto") -> RateTest:
    """Train ``steps`` steps from new weights at rates from 1e-6 to 1; nothing is saved.

    Raises ConfigError if the loss is not finite from the start.
    """
    engine = engines.create_engine(run, device=device)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0

    def rate(step: int) -> float:
        return MIN_RATE * (MAX_RATE / MIN_RATE) ** (step / max(steps - 1, 1))

    def record(progress: Progress, result: StepResult) -> None:
        nonlocal mean
        mean = SMOOTHING * mean + (1 - SMOOTHING) * result.read()["loss"]
        smooth = mean / (1 - SMOOTHING**progress.step)
        if not math.isfinite(smooth) or (losses and smooth > DIVERGED * min(losses)):
            raise _Diverged
        rates.append(rate(progress.step - 1))
        losses.append(smooth)

    try:
        with closing(batches_from(run, dataset, Progress())) as batches:
            train(engine, batches, rate, [record], progress=Progress(), until=steps)
    except (_Diverged, NumericsError):
        pass
    if len(losses) < 2:
        raise ConfigError(
            "The loss is not finite from the first steps on.", hint="Check the text with fabella check-data."
        )
    return RateTest(tuple(rates), tuple(losses))
