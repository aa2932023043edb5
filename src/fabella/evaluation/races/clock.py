"""Clock of a race: seconds by part, and the number of steps that the time left allows."""

import time

from fabella.evaluation.step_time import StepTime
from fabella.run_config.run import RunConfig
from fabella.training.loop import TrainingStep
from fabella.training.schedule import batch_size_at, steps_for_sequences

MARGIN = 0.12
"""Share of the time for the steps that is not planned: the steps of a training of 20 minutes took up to 12 % longer
than the steps measured before (two threads of an AMD EPYC)."""
MEASURING_SHARE = 0.015
"""Share of the clock in which steps are measured."""
MEASURED_STEPS = 400


class RaceClock:
    """Wall-clock time since the start of an entry, in parts that follow each other."""

    def __init__(self, minutes: float) -> None:
        self.limit = 60 * minutes
        """Seconds on the clock"""
        self.parts: dict[str, float] = {}
        """Part → its seconds"""
        self._start = self._last = time.perf_counter()

    def end(self, part: str, at: float | None = None) -> None:
        """End a part, now or ``at`` a time of ``time.perf_counter``."""
        now = time.perf_counter() if at is None else at
        self.parts[part] = now - self._last
        self._last = now

    @property
    def left(self) -> float:
        """Seconds until the end of the clock; negative after it."""
        return self._start + self.limit - time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of all parts that have ended."""
        return self._last - self._start

    @property
    def in_time(self) -> bool:
        """Whether the last part ended before the clock."""
        return self.seconds <= self.limit


class LastStep:
    """User callback that notes when each step ended; the last one when the device has finished it."""

    def __init__(self, steps: int) -> None:
        self.steps, self.time = steps, 0.0

    def __call__(self, step: TrainingStep) -> None:
        if step.progress.step >= self.steps:
            step.result.read()
        self.time = time.perf_counter()


def steps_within(seconds: float, run: RunConfig, measured: StepTime, startup: float) -> int:
    """Return the steps of a run that fit into ``seconds``, at least one.

    ``startup``: seconds that building the model takes. Compiling is expected to take as long as in the measured first
    step. Where the batch size changes, the time of a step is proportional to it.
    """
    compiling = max(measured.first - measured.later, 0.0)
    usable = (seconds - startup - compiling) * (1 - MARGIN)
    sequences = int(usable / measured.later * batch_size_at(run.training, 0))
    if sequences < 1:
        return 1
    steps = steps_for_sequences(run.training, sequences + 1) - 1
    return max(steps, 1)
