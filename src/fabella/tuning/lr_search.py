"""Find a learning rate: a range test, then short trainings at rates three times apart.

The range test costs one short training and finds the order of magnitude, but not the best rate: a rate that is good for
some steps of a rising schedule is too high for a whole training (Smith 2017 suggests a fraction of it, and the fraction
depends on model, optimizer and schedule). Therefore whole trainings decide. They are as long as a trial, with the
schedule of the run, and start at the steepest descent of the test. The search moves on until a rate is better than
those three times lower and higher, fits a parabola to the three losses and tries its minimum as well.
"""

import dataclasses
import math
from collections.abc import Callable
from contextlib import closing
from html import escape

from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine as engines
from fabella.errors import ConfigError, NumericsError
from fabella.report.charts import Axis, Line, caption, chart
from fabella.report.page import document
from fabella.run_config.run import RunConfig
from fabella.training.data_source import batches_from
from fabella.training.eval_loss import ValidationSplit
from fabella.training.loop import Progress, train
from fabella.training.schedule import learning_rate
from fabella.tuning.lr_range_test import RateTest, lr_range_test

RANGE_TEST_STEPS = 100
FACTOR = 3.0
"""Distance of the rates that are compared: finer differences drown in the noise of a short training."""
MAX_TRAININGS = 10
"""At most this many trainings; a search from a start that is wrong by 1,000 needs as many."""
MIN_RATE, MAX_RATE = 1e-6, 10.0
"""Limits of the search; ``optimizer.lr`` allows at most 10."""


@dataclasses.dataclass(frozen=True, slots=True)
class RateSearch:
    """Rates that were tried with a training each, and the validation loss after it."""

    test: RateTest
    steps: int
    """Steps of each training"""
    losses: dict[float, float]
    """Learning rate → validation loss in nats per token, infinite if the training failed; rates in ascending order"""

    @property
    def suggested(self) -> float:
        """Learning rate with the lowest validation loss."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def interval(self) -> tuple[float, float]:
        """Nearest tried rates on both sides that are at least half of FACTOR away and worse: the best is between."""
        best, distance = self.suggested, math.sqrt(FACTOR) * 0.99
        lower = [rate for rate in self.losses if rate * distance <= best]
        higher = [rate for rate in self.losses if rate >= best * distance]
        return max(lower, default=best), min(higher, default=best)


def find_rate(
    run: RunConfig,
    dataset: TokenizedDataset,
    *,
    steps: int,
    device: str = "auto",
    report: Callable[[str], None] = lambda text: None,
) -> RateSearch:
    """Search the peak learning rate for trainings of ``steps`` steps; nothing is saved.

    Raises ConfigError if no rate is better than those next to it within the limits of the search.
    """
    test = lr_range_test(run, dataset, steps=RANGE_TEST_STEPS, device=device)

    def loss_at(rate: float) -> float:
        loss = trained_loss(run, dataset, rate, steps=steps, device=device)
        report(f"learning rate {rate:.2g}: validation loss {loss:.4f} after {steps:,} steps")
        return loss

    losses = search(loss_at, test.steepest)
    return RateSearch(test, steps, dict(sorted(losses.items())))


def search(loss_at: Callable[[float], float], start: float) -> dict[float, float]:
    """Return rate → loss of all tried rates; the best one has worse rates on both sides.

    Raises ConfigError if there is none within the limits.
    """
    center = _rounded(start)
    losses: dict[float, float] = {}
    for rate in (center, _rounded(center / FACTOR), _rounded(center * FACTOR)):
        losses[rate] = loss_at(rate)
    while True:
        rates = sorted(losses)
        best = min(rates, key=losses.__getitem__)
        if best not in (rates[0], rates[-1]) and math.isfinite(losses[best]):
            break
        # A training that failed at every rate had rates that were too high.
        lower = best == rates[0] or not math.isfinite(losses[best])
        following = _rounded(rates[0] / FACTOR if lower else rates[-1] * FACTOR)
        if len(losses) >= MAX_TRAININGS or not MIN_RATE <= following <= MAX_RATE:
            raise ConfigError(
                f"The best learning rate is not between {rates[0]:.2g} and {rates[-1]:.2g}.",
                hint="Check the text with fabella check-data, and the schedule and weight decay of the optimizer.",
            )
        losses[following] = loss_at(following)
    vertex = _rounded(parabola_minimum([(rate, losses[rate]) for rate in _neighbors(sorted(losses), best)]))
    if vertex not in losses:
        losses[vertex] = loss_at(vertex)
    return losses


def trained_loss(run: RunConfig, dataset: TokenizedDataset, rate: float, *, steps: int, device: str = "auto") -> float:
    """Train ``steps`` steps with the schedule of the run at a peak ``rate``; return the validation loss in nats.

    Infinite if a step is not finite.
    """
    optimizer = run.optimizer.model_copy(update={"lr": rate})
    training = run.training.model_copy(update={"length": MaxSteps(max_steps=steps)})
    run = run.model_copy(update={"optimizer": optimizer, "training": training})
    engine = engines.create_engine(run, device=device)

    def rate_at(step: int) -> float:
        return learning_rate(optimizer, step, steps)

    try:
        with closing(batches_from(run, dataset, Progress())) as batches:
            train(engine, batches, rate_at, [], progress=Progress(), until=steps)
    except NumericsError:
        return math.inf
    validation = ValidationSplit(engine, dataset, run.data.sequences, run.training.micro_batch_size)
    loss = validation.loss(run.validation.num_sequences).loss
    return loss if math.isfinite(loss) else math.inf


def parabola_minimum(points: list[tuple[float, float]]) -> float:
    """Return the rate at the minimum of the parabola through three (rate, loss), in the logarithm of the rate.

    The middle loss is the lowest, so the minimum is between the outer ones. With an infinite loss: the middle rate.
    """
    (x1, y1), (x2, y2), (x3, y3) = [(math.log(rate), loss) for rate, loss in points]
    left, right = (y1 - y2) / (x2 - x1), (y3 - y2) / (x3 - x2)
    if not math.isfinite(left + right) or left + right <= 0:
        return points[1][0]
    # The slope of a parabola is −left at the middle of the first interval and right at that of the second.
    first, second = (x1 + x2) / 2, (x2 + x3) / 2
    return math.exp(first + (second - first) * left / (left + right))


def _neighbors(rates: list[float], middle: float) -> list[float]:
    index = rates.index(middle)
    return rates[index - 1 : index + 2]


def _rounded(rate: float) -> float:
    """Return the rate with two digits, as it is printed, so that the advice is what was tried."""
    return float(f"{rate:.1e}")


def rate_page(result: RateSearch, title: str) -> str:
    """Return the result as an HTML page with a plot of the trainings and one of the range test."""
    trained = [Line("loss", [(rate, loss) for rate, loss in result.losses.items() if math.isfinite(loss)])]
    tested = [Line("loss", list(zip(result.test.rates, result.test.losses, strict=True)))]
    x, y = Axis("learning rate", log=True), Axis("nats per token")
    low, high = result.interval
    return document(
        title,
        f"<h1>{escape(title)}</h1><main>"
        f"<p>Try optimizer.lr={result.suggested:.2g}. In trainings of {result.steps:,} steps it was better than "
        f"{low:.2g} and {high:.2g}.</p>"
        f"<figure><h3>Validation loss of trainings</h3>{chart('Validation loss', trained, x, y)}{caption(trained)}"
        f"</figure>"
        f"<figure><h3>Training loss of the range test</h3>{chart('Loss', tested, x, y)}{caption(tested)}"
        f"</figure></main>",
    )
