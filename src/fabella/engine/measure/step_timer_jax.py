"""Measurements of a training with JAX that do not affect it: step time, memory, peak FLOP/s, histograms."""

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
from fabella.engine.measure.peak_flops import measure_peak_flops
from fabella.engine.measure.process_memory import peak_process_memory

MAX_STEPS = 1000
"""Most recent steps whose times are stored until they are read: enough for percentiles."""
BINS = 64


class StepTimer:
    """Time of each step from ``start`` to ``stop``.

    JAX has no clock on the device. On a CPU, ``stop`` waits for the step. On other devices steps are queued, so
    that only the mean of many times is meaningful.
    """

    def __init__(self, wait: Callable[[], object] | None) -> None:
        """``wait`` blocks until the device is done; None never waits."""
        self._wait = wait
        self._times: deque[float] = deque(maxlen=MAX_STEPS)
        self._started: float | None = None

    def start(self) -> None:
        """Mark the start of a step."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Mark the end of a step; without a preceding ``start`` nothing is recorded."""
        if self._wait:
            self._wait()
        if self._started is not None:
            self._times.append(time.perf_counter() - self._started)
        self._started = None

    def read(self) -> list[float]:
        """Return the seconds of each step since the last call, at most MAX_STEPS of them."""
        times = list(self._times)
        self._times.clear()
        return times


@cache
def peak_flops(device: Device, compute: Any) -> float:
    """Return the FLOP/s of the fastest matrix product, measured once per process."""
    multiply = jax.jit(jnp.matmul)

    def product_of(size: int) -> Callable[[], None]:
        a = jax.device_put(jnp.ones((size, size), compute), device)

        def multiply_and_wait() -> None:
            multiply(a, a).block_until_ready()

        return multiply_and_wait

    return measure_peak_flops(product_of, on_cpu=device.platform == "cpu")


def peak_memory(device: Device) -> int:
    """Return the peak memory in bytes so far: of the device, or of this process if it has no own memory."""
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    return peak_process_memory()


def histogram(values: NDArray[np.float32]) -> Histogram:
    """Count values in 64 bins of equal width from the smallest to the largest; non-finite values are ignored."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Histogram(0.0, 1.0, (0,) * BINS)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        low, high = low - 1.0, high + 1.0
    counts, _ = np.histogram(finite, BINS, (low, high))
    return Histogram(low, high, tuple(int(number) for number in counts))
