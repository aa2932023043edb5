"""How fast a training goes, and what it waits for: measured at every step, told when it is logged."""

import time
from collections.abc import Iterator

import numpy as np

from fabella.data.batches import Batch
from fabella.engine.engine import Engine, StepResult
from fabella.models.flops import flops_per_token
from fabella.training.loop import Progress

PERCENTILES = (1, 50, 99)
THROUGHPUT_KEYS = (
    "seconds",
    "tokens_per_second",
    *(f"step_seconds_p{share}" for share in PERCENTILES),
    "waiting_share",
    "flops_utilisation",
    "peak_flops",
    "peak_memory_bytes",
)
"""The values of a row that depend on the machine's pace; all others are the same in every repetition of a run."""


class ThroughputMeter:
    """Measures the steps between two readings. It is an observer, the first: whatever comes after is no part of a step.

    Clocks that are set do not matter: all of them here only ever go forward.
    """

    def __init__(self, engine: Engine, length: int, seconds: float) -> None:
        """``length``: of a window in tokens. ``seconds``: spent on this run by earlier processes."""
        self.engine = engine
        self.flops_per_token = flops_per_token(engine.config, length)
        self.seconds = seconds
        self.waited = 0.0
        self._stopwatch = engine.stopwatch()
        self._last = (time.monotonic(), -1)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; a step begins when its batch is asked for."""
        while True:
            self._stopwatch.start()
            begin = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self.waited += time.monotonic() - begin
            yield batch

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self._stopwatch.stop()

    def read(self, tokens: int) -> dict[str, float]:
        """The values named in TIMINGS, over the steps since the last reading; ``tokens``: learned so far in the run.

        ``tokens_per_second`` and ``flops_utilisation`` (of ``peak_flops``) are over all the time that passed, with
        validating and whatever else the loop did; padding is not counted. The first reading, which has warmed up,
        gives neither.
        """
        now = time.monotonic()
        then, before = self._last
        passed = max(now - then, 1e-9)
        self.seconds += passed
        pace = (tokens - before) / passed if before >= 0 else 0.0
        peak = self.engine.peak_flops()
        steps = self._stopwatch.read() or [0.0]
        values = (
            round(self.seconds, 3),
            round(pace, 1),
            *(round(float(np.percentile(steps, share)), 6) for share in PERCENTILES),
            round(min(self.waited / passed, 1.0), 5),
            round(pace * self.flops_per_token / peak, 4),
            round(peak),
            self.engine.peak_memory(),
        )
        self.waited = 0.0
        # What the peak took to measure is no part of the next interval.
        self._last = (time.monotonic(), tokens)
        return dict(zip(THROUGHPUT_KEYS, values, strict=True))
