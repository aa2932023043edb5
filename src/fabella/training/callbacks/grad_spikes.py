"""Gradients that are suddenly large: told of when they begin, measured at every step, and never waited for."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median

from fabella.engine.engine import StepResult
from fabella.tracking.tracker import Row
from fabella.training.loop import Progress

LATEST = 64
"""Norms that the median is of; also the most steps that go by on a GPU before they are looked at."""
ENOUGH = 16
"""Norms that make a median; in the very first steps they fall by themselves."""


class GradNormSpikes:
    """Reads the result of every step, some steps later, in order: the first observer to see that one has failed.

    A norm more than ``factor`` times the median of the latest is a spike; told of is the first of several in a row.
    """

    def __init__(self, factor: float, write: Callable[[Row], None], due: Iterable[int], norms: str = "") -> None:
        """``due``: the steps between the rows that others write, so that rows come in order of their steps.

        ``norms``: as ``numbers`` gave them.
        """
        self.factor, self.write, self.due = factor, write, tuple(due)
        self._norms = deque((float(norm) for norm in norms.split()), maxlen=LATEST)
        self._unread: list[tuple[int, StepResult]] = []

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self._unread.append((progress.step, result))
        if progress.step == 1 or len(self._unread) == LATEST or any(progress.step % every == 0 for every in self.due):
            self.check()

    def check(self) -> None:
        """Read what is unread. Raises NotFinite where a step has failed."""
        for step, result in self._unread:
            self._judge(step, result.read()["grad_norm"])
        self._unread.clear()

    def numbers(self) -> Mapping[str, float | str]:
        """For a checkpoint."""
        self.check()
        return {"gradient_norms": " ".join(str(norm) for norm in self._norms)}

    def _judge(self, step: int, norm: float) -> None:
        if norm == 0.0:  # the step was left out
            return
        usual = median(self._norms) if len(self._norms) >= ENOUGH else float("inf")
        if norm > self.factor * usual >= self._norms[-1]:
            self.write({"kind": "grad_spike", "step": step, "grad_norm": norm, "median": usual})
        self._norms.append(float(f"{norm:.6g}"))
