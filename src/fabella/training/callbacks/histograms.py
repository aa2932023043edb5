"""Log histograms of weights and gradients."""

from collections.abc import Callable, Mapping

from fabella.engine.engine import Histogram, StepResult
from fabella.training.callbacks.cadence import Due
from fabella.training.callbacks.metrics import Write
from fabella.training.loop import Progress


class LogHistograms:
    """Log the distributions of weights and gradients. Other steps cost nothing."""

    def __init__(self, measure: Callable[[], Mapping[str, Histogram]], write: Write, *, due: Due) -> None:
        self.measure, self.write, self.due = measure, write, due

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if self.due(progress):
            result.read()  # raises if the step has failed
            self.write({"kind": "histograms", "step": progress.step, "histograms": self.measure()})
