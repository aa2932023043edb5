"""A test of learning rates: a short training in which the rate rises with each step (Smith 2017, arXiv 1506.01186)."""

import math
from contextlib import closing
from dataclasses import dataclass
from html import escape

from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine as engines
from fabella.engine.engine import StepResult
from fabella.errors import ConfigError, NumericsError
from fabella.report.charts import Axis, Line, chart
from fabella.report.page import document
from fabella.run_config.run import RunConfig
from fabella.training.data_source import batches_from
from fabella.training.loop import Progress, train

LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9
"""Of the running mean of the loss; it is corrected for its beginning."""
DIVERGED = 1.5
"""Times the lowest loss: from here on the rate is too high."""
SAFETY = 4.0
"""A run keeps its rate for longer than the test does: it begins below the rate at which the loss was lowest."""


@dataclass(frozen=True, slots=True)
class RateTest:
    """``rates``, and the smoothed loss after a step at each; up to where the loss diverged."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The rate at which the loss was lowest."""
        return self.rates[self.losses.index(min(self.losses))]

    @property
    def suggested(self) -> float:
        """A quarter of that."""
        return self.lowest / SAFETY


class _Diverged(Exception):  # noqa: N818 - no error: the test has found what it looked for
    pass


def lr_range_test(run: RunConfig, prepared: TokenizedDataset, *, steps: int, device: str = "auto") -> RateTest:
    """Train ``steps`` steps from the first weights on, at rates from 1e-6 to 1, and keep nothing of it.

    Raises ConfigError where the loss was not finite from the first steps on.
    """
    engine = engines.create_engine(run, device=device)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0

    def rate(step: int) -> float:
        return LOWEST * (HIGHEST / LOWEST) ** (step / max(steps - 1, 1))

    def look(progress: Progress, result: StepResult) -> None:
        nonlocal mean
        mean = SMOOTHING * mean + (1 - SMOOTHING) * result.read()["loss"]
        smooth = mean / (1 - SMOOTHING**progress.step)
        if not math.isfinite(smooth) or (losses and smooth > DIVERGED * min(losses)):
            raise _Diverged
        rates.append(rate(progress.step - 1))
        losses.append(smooth)

    try:
        with closing(batches_from(run, prepared, Progress())) as batches:
            train(engine, batches, rate, [look], progress=Progress(), until=steps)
    except (_Diverged, NumericsError):
        pass
    if len(losses) < 2:
        raise ConfigError("The loss was no number from the first steps on.", hint="Check the text: fabella check-data.")
    return RateTest(tuple(rates), tuple(losses))


def rate_page(found: RateTest, title: str) -> str:
    """The test as a page with its plot."""
    points = list(zip(found.rates, found.losses, strict=True))
    drawn = chart("Loss", [Line("loss", points)], Axis("learning rate", log=True), Axis("nats a token"))
    return document(
        title,
        f"<h1>{escape(title)}</h1><main>"
        f"<p>The loss was lowest at {found.lowest:.2g}; try optimizer.lr={found.suggested:.2g}.</p>"
        f"<figure><h3>Loss by learning rate</h3>{drawn}<figcaption></figcaption></figure></main>",
    )
