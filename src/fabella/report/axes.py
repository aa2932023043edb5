"""Numbers on an axis: where the ticks stand, and how they are written."""

import math
from bisect import bisect_left
from collections.abc import Sequence

MOST_TICKS = 6
SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return _multiples(low, high, step)


def second_ticks(low: float, high: float) -> list[float]:
    """The same for seconds: whole minutes, hours, days."""
    rough = (high - low) / MOST_TICKS
    if rough < 1:
        return ticks(low, high)
    at = bisect_left(SECONDS, rough)
    step = SECONDS[at] if at < len(SECONDS) else math.ceil(rough / 86400) * 86400
    return _multiples(low, high, step)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or powers of ten alone where those are many."""
    found = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
        if low * (1 - 1e-9) <= factor * 10.0**power <= high * (1 + 1e-9)
    ]
    if len(found) > MOST_TICKS:
        tens = [tick for tick in found if math.log10(tick) == round(math.log10(tick))]
        found = tens[:: -(-len(tens) // MOST_TICKS)] if len(tens) > 1 else found[:: -(-len(found) // MOST_TICKS)]
    return found or [low, high]


def _multiples(low: float, high: float, step: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number with as many digits as help: 0.000123, 4.56, 1.2k, 34M."""
    if value == 0:
        return "0"
    size = abs(value)
    for unit, letter in UNITS:
        if size >= unit * 0.9995:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.1e}" if size < 1e-4 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """0:42, 12:30, 3:05:00, 2 d 4 h."""
    whole = round(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest finite value, a little apart in any case; 0 and 1 where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if high == low:
        return (low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9)
    return low, high
