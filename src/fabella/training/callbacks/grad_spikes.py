"""Detect spikes of the gradient norm."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median

from fabella.engine.engine import StepResult
from fabella.tracking.tracker import Row
from fabella.training.callbacks.cadence import Due
from fabella.training.loop import Progress

WINDOW = 64
"""Number of norms in the median; also the maximum number of steps on a GPU whose results are unread."""
MIN_NORMS = 16
"""Norms needed for a median. In the first steps the norm falls quickly."""


class GradNormSpikes:
    """Read the result of every step, in order and some steps later, so that training does not wait for the device.

    A norm above ``factor`` times the median of the latest norms is a spike. Only the first of consecutive spikes is
    logged, and none while the learning rate rises, because norms change quickly then. This is the first callback that
    raises the error of a failed step.
    """

    def __init__(
        self,
        write: Callable[[Row], None],
        *,
        factor: float,
        rows_due: Iterable[Due],
        norms: str = "",
        rate: Callable[[int], float] = lambda step: 1.0,
        check_loss: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        """``rows_due``: cadences of the other rows; results are read there, so that rows are in order of their steps.

        ``norms``: value of ``gradient_norms`` in ``state()``. ``rate(step)``: learning rate of a step, from 0.
        ``check_loss(step, loss)``: called with each loss that is read.
        """
        self.rate, self.check_loss = rate, check_loss
        self.write, self.factor, self.rows_due = write, factor, tuple(rows_due)
        self.last_read = 0
        """Latest step whose result has been read"""
        self._norms = deque((float(norm) for norm in norms.split()), maxlen=WINDOW)
        self._unread: list[tuple[int, StepResult]] = []

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self._unread.append((progress.step, result))
        due = any(due(progress) for due in self.rows_due)
        if progress.step == 1 or len(self._unread) == WINDOW or due:
            self.read_all()

    def read_all(self) -> None:
        """Read the unread results. Raise NonFiniteStepError if a step has failed."""
        for step, result in self._unread:
            metrics = result.read()
            self._check(step, metrics["grad_norm"])
            self.last_read = step
            self.check_loss(step, metrics["loss"])
        self._unread.clear()

    def state(self) -> Mapping[str, float | str]:
        """Return the values for a checkpoint."""
        self.read_all()
        return {"gradient_norms": " ".join(str(norm) for norm in self._norms)}

    def _check(self, step: int, norm: float) -> None:
        if math.isnan(norm):  # a skipped step
            return
        middle = median(self._norms) if len(self._norms) >= MIN_NORMS else float("inf")
        if norm > self.factor * middle >= self._norms[-1] and self.rate(step) <= self.rate(step - 1):
            self.write({"kind": "grad_spike", "step": step, "grad_norm": norm, "median": middle})
        self._norms.append(float(f"{norm:.6g}"))
