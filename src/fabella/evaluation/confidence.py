"""Confidence intervals."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964
"""Half-width of the central 95 % of a normal distribution, in standard errors."""


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A value and its 95 % confidence interval; the bounds are NaN if there is too little data."""

    value: float
    low: float = math.nan
    high: float = math.nan


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> ConfidenceInterval:
    """Return Σ above / Σ below over independent documents, [N] each.

    The interval is that of the ratio estimator: normal, with the error linearized (Cochran, Sampling Techniques,
    3rd ed., 6.3). Documents are independent, tokens are not: a few long ones make it wide. One document gives NaN.
    """
    total = float(below.sum())
    value = float(above.sum()) / total
    count = len(above)
    if count < 2:
        return ConfidenceInterval(value)
    squares = float(np.square(above - value * below).sum())
    margin = Z_95 * math.sqrt(squares * count / (count - 1)) / total
    return ConfidenceInterval(value, value - margin, value + margin)


def proportion(correct: int, count: int) -> ConfidenceInterval:
    """Return a share of ``count`` independent trials with Wilson's interval (1927), which stays within 0 to 1."""
    if not count:
        return ConfidenceInterval(math.nan)
    p, z = correct / count, Z_95 * Z_95
    middle = (p + z / (2 * count)) / (1 + z / count)
    margin = Z_95 * math.sqrt(p * (1 - p) / count + z / (4 * count * count)) / (1 + z / count)
    return ConfidenceInterval(p, max(0.0, middle - margin), min(1.0, middle + margin))


def exponential(nats: ConfidenceInterval) -> ConfidenceInterval:
    """Return exp of a loss and its bounds, i.e. perplexity; infinite if float64 overflows."""
    return ConfidenceInterval(
        *(math.exp(bound) if bound < 709 else bound * math.inf for bound in (nats.value, nats.low, nats.high))
    )
