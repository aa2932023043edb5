"""Peak FLOP/s of this machine's matrix products, the reference of model FLOPs utilization (MFU)."""

import time
from collections.abc import Callable

SMALL_SIZE = 256
"""Rows of the matrices that are tried first on a CPU: 34 MFLOP."""
SIZE_ON_CPU, SIZE_ELSEWHERE = 1024, 8192
"""Rows of the square matrices: large enough for full speed, small enough for any memory (12 MB, 400 MB)."""
MIN_TRIALS = 3
SECONDS = 0.15


def measure_peak_flops(
    product_of: Callable[[int], Callable[[], object]], *, on_cpu: bool, seconds: float = SECONDS
) -> float:
    """Return the FLOP/s of the fastest matrix product among those of about ``seconds`` of measurement.

    ``product_of`` returns a function that multiplies two square matrices with so many rows, and waits for the result.
    A CPU that is slow in a number format, such as float16, would take seconds for one product of full size: small
    matrices are measured there.
    """
    size = SIZE_ELSEWHERE
    if on_cpu:
        small = _fastest(product_of(SMALL_SIZE), 0.0, trials=1)
        size = SIZE_ON_CPU if small * (SIZE_ON_CPU / SMALL_SIZE) ** 3 <= seconds else SMALL_SIZE
    return 2 * size**3 / _fastest(product_of(size), seconds, trials=MIN_TRIALS)


def _fastest(multiply: Callable[[], object], seconds: float, *, trials: int) -> float:
    """Return the seconds of the fastest call among ``trials`` of them, or more within ``seconds``."""
    multiply()  # warm-up: compilation, memory pages, kernels, threads
    end, best, done = time.perf_counter() + seconds, float("inf"), 0
    while done < trials or time.perf_counter() < end:
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
        done += 1
    return best
