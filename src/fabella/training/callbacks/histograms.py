"""Log histograms of weights and gradients."""

from collections.abc import Callable, Mapping

from fabella.engine.engine import Histogram, StepResult
from fabella.training.callbacks.metrics import Write
from fabella.training.loop import Progress


class LogHistograms:
    """Log the distributions of weights and gradients. Other steps cost nothing."""

    def __init__(self, measure: Callable[[], Mapping[str, Histogram]], write: Write, *, every: int) -> None:
        self.measure, self.write, self.every = measure, write, every

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step % self.every == 0:
            result.read()  # raises if the step has failed
            self.write({"kind": "histograms", "step": progress.step, "histograms": self.measure()})
