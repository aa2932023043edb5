"""Measure throughput and time spent waiting for data."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fabella.data.batches import Batch
from fabella.engine.engine import Engine, StepResult
from fabella.models.flops import flops_per_token
from fabella.runs.metrics_log import read_rows
from fabella.training.loop import Progress

PERCENTILES = (1, 50, 99)
THROUGHPUT_KEYS = (
    "seconds",
    "tokens_per_second",
    *(f"step_seconds_p{percentile}" for percentile in PERCENTILES),
    "data_wait_fraction",
    "flops_utilization",
    "peak_flops",
    "peak_memory_bytes",
)
"""Values of a row that depend on the speed of the machine; all others are the same in every repetition of a run."""


class ThroughputMeter:
    """Measure the steps between two readings. Register it as the first callback: later ones are not part of a step.

    All clocks are monotonic, so setting the system time does not matter.
    """

    def __init__(self, engine: Engine, length: int, seconds: float) -> None:
        """``length``: tokens of a training sequence. ``seconds``: training time of earlier sessions of this run."""
        self.engine = engine
        self.flops_per_token = flops_per_token(engine.config, length)
        self.seconds = seconds
        self.waiting_seconds = 0.0
        self._stopwatch = engine.stopwatch()
        self._last: tuple[float, int | None] = (time.monotonic(), None)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches. A step starts when its batch is requested."""
        while True:
            self._stopwatch.start()
            start = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self.waiting_seconds += time.monotonic() - start
            yield batch

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self._stopwatch.stop()

    def read(self, tokens: int) -> dict[str, float]:
        """Return the values of THROUGHPUT_KEYS over the steps since the last reading, without those not measured.

        ``tokens``: targets of the run so far. ``tokens_per_second`` and ``flops_utilization`` (share of ``peak_flops``)
        include the time of validation and all other callbacks, but no padding. The first reading has neither, because
        its time includes the warm-up.
        """
        now = time.monotonic()
        last_time, last_tokens = self._last
        elapsed = max(now - last_time, 1e-9)
        self.seconds += elapsed
        tokens_per_second = (tokens - last_tokens) / elapsed if last_tokens is not None else None
        peak = self.engine.peak_flops()
        steps = self._stopwatch.read()
        values = (
            round(self.seconds, 3),
            None if tokens_per_second is None else round(tokens_per_second, 1),
            *(round(float(np.percentile(steps, percentile)), 6) if steps else None for percentile in PERCENTILES),
            round(min(self.waiting_seconds / elapsed, 1.0), 5),
            None if tokens_per_second is None else round(tokens_per_second * self.flops_per_token / peak, 4),
            round(peak),
            self.engine.peak_memory(),
        )
        self.waiting_seconds = 0.0
        # Measuring the peak takes time that is not part of the next interval.
        self._last = (time.monotonic(), tokens)
        return {key: value for key, value in zip(THROUGHPUT_KEYS, values, strict=True) if value is not None}


def training_seconds(run_dir: Path, step: int) -> float:
    """Return the training time until ``step`` that the metrics of a run report."""
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row.get("step", 0) <= step]
    return max((float(row.get("seconds", 0.0)) for row in rows), default=0.0)
