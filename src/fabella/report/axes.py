"""Ticks of a chart axis and the format of their numbers."""

import math
from bisect import bisect_left
from collections.abc import Sequence

MAX_TICKS = 6
SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers from ``low`` to ``high``: 1, 2 or 5 times powers of ten; ``whole``: integers."""
    if high <= low:
        return [low]
    min_step = (high - low) / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(min_step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= min_step * (1 - 1e-9))
    return _multiples(low, high, max(1.0, step) if whole else step)


def second_ticks(low: float, high: float) -> list[float]:
    """Return ticks for seconds: whole seconds, minutes, hours or days."""
    min_step = (high - low) / MAX_TICKS
    if min_step < 1:
        return ticks(low, high)
    at = bisect_left(SECONDS, min_step)
    step = SECONDS[at] if at < len(SECONDS) else math.ceil(min_step / 86400) * 86400
    return _multiples(low, high, step)


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, or only powers of ten if there are too many."""
    candidates = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
        if low * (1 - 1e-9) <= factor * 10.0**power <= high * (1 + 1e-9)
    ]
    if len(candidates) > MAX_TICKS:
        tens = [tick for tick in candidates if math.log10(tick) == round(math.log10(tick))]
        shown = tens if len(tens) > 1 else candidates
        candidates = shown[:: -(-len(shown) // MAX_TICKS)]
    return candidates or [low, high]


def _multiples(low: float, high: float, step: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def numbers(values: Sequence[float]) -> list[str]:
    """Format the numbers of an axis with as many digits as make them different."""
    texts = [number(value) for value in values]
    for digits in range(4, 16):
        if len(set(texts)) == len(set(values)):
            break
        texts = [number(value, digits) for value in values]
    return texts


def number(value: float, digits: int = 3) -> str:
    """Format a number with three digits and a unit prefix: 0.000123, 4.56, 1.2k, 34M, 1e+24."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e21:
        return f"{value:.3g}"
    for unit, letter in UNITS:
        if size >= unit * 0.9995:
            return f"{value / unit:.{digits}g}{letter}"
    return f"{value:.{digits - 2}e}" if size < 1e-4 else f"{value:.{digits}g}"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest finite value, never equal; (0, 1) if no value is finite."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if high == low:
        return (low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9)
    return low, high
