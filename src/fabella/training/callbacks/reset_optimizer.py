"""Reset the optimizer state after the steps of ``optimizer.reset_after``."""

from collections.abc import Collection

from fabella.engine.engine import Engine, StepResult
from fabella.training.loop import Progress


class ResetOptimizer:
    """Register it after ``SaveCheckpoint``: a checkpoint has the state before the reset, and resuming resets it."""

    def __init__(self, engine: Engine, steps: Collection[int]) -> None:
        self.engine, self.steps = engine, steps

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step in self.steps:
            self.engine.reset_optimizer()
