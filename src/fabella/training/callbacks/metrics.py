"""Log the metrics of training steps."""

import math
from collections.abc import Callable
from typing import Any

from fabella.engine.engine import StepResult
from fabella.tracking.tracker import Row
from fabella.training.callbacks.cadence import Due
from fabella.training.callbacks.throughput import ThroughputMeter
from fabella.training.loop import Progress

Write = Callable[[Row], None]


class LogMetrics:
    """Log loss, gradient norm, learning rate and throughput. Other steps are not read, so they do not wait."""

    def __init__(self, rate: Callable[[int], float], write: Write, throughput: ThroughputMeter, *, due: Due) -> None:
        """``rate(step)``: learning rate of a step, counted from 0."""
        self.rate, self.write, self.throughput, self.due = rate, write, throughput, due

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if not self.due(progress) and progress.step != 1:
            return
        metrics: dict[str, Any] = result.read()
        if math.isnan(metrics["grad_norm"]):  # a skipped step has none
            del metrics["grad_norm"]
        self.write({
            "kind": "train",
            "step": progress.step,
            "tokens": progress.tokens,
            **metrics,
            "lr": self.rate(progress.step - 1),
            **self.throughput.read(progress.tokens),
        })  # fmt: skip
