"""What is measured of a JAX training without disturbing it: the time of steps, memory, speed, how values are spread."""

import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.engine.device_jax import Device
from fabella.engine.engine import Histogram
from fabella.engine.measure.process_memory import peak_process_memory

LATEST = 1000
"""Steps whose times are kept until they are read: enough for percentiles, however seldom a run logs."""
BINS = 64
SIZE_ON_CPU, SIZE_ELSEWHERE = 1024, 8192
"""Side of the square matrices whose product is timed."""


class StepTimer:
    """The time of each step, from ``start`` to ``stop``.

    JAX has no clock on the device. A CPU's step is waited for. On any other device steps queue up behind each other,
    so that from one ``stop`` to the next passes, in the mean, the time of a step; a single one is not to be told.
    """

    def __init__(self, wait: Callable[[], object] | None) -> None:
        """``wait``: until the device has done all it was asked for; None where nobody shall wait."""
        self._wait = wait
        self._times: deque[float] = deque(maxlen=LATEST)
        self._started: float | None = None

    def start(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """It ends; without ``start`` before it nothing is measured."""
        if self._wait:
            self._wait()
        if self._started is not None:
            self._times.append(time.perf_counter() - self._started)
        self._started = None

    def read(self) -> list[float]:
        """Seconds of each step since the last reading (the latest thousand)."""
        times = list(self._times)
        self._times.clear()
        return times


@cache
def peak_flops(device: Device, compute: Any, *, seconds: float = 0.15) -> float:
    """Operations a second of the fastest of some matrix products, measured once a process."""
    size = SIZE_ON_CPU if device.platform == "cpu" else SIZE_ELSEWHERE
    a = jax.device_put(jnp.ones((size, size), compute), device)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()  # compiled
    end, best, trials = time.perf_counter() + seconds, float("inf"), 0
    while trials < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
        trials += 1
    return 2 * size**3 / best


def peak_memory(device: Device) -> int:
    """The most bytes in use at once so far: of the device's memory, or of this process's where it has none."""
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    return peak_process_memory()


def histogram(values: NDArray[np.float32]) -> Histogram:
    """Counts in 64 equal bins from the smallest to the largest value; what is not finite is left out."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Histogram(0.0, 1.0, (0,) * BINS)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        low, high = low - 1.0, high + 1.0
    counts, _ = np.histogram(finite, BINS, (low, high))
    return Histogram(low, high, tuple(int(number) for number in counts))
