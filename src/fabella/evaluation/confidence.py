"""Confidence intervals."""

import math
from collections.abc import Sequence
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


# Quantile 0.975 of Student's t distribution for 1, 2, … degrees of freedom.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean(values: Sequence[float]) -> ConfidenceInterval:
    """Return the mean of independent values, e.g. of runs with different seeds, with Student's 95 % t interval.

    One value gives NaN bounds: the spread is unknown.
    """
    count = len(values)
    center = math.fsum(values) / count
    if count < 2:
        return ConfidenceInterval(center)
    deviation = math.sqrt(math.fsum((value - center) ** 2 for value in values) / (count - 1))
    # Beyond the table, the first terms of the expansion in 1/freedom are exact to three digits.
    freedom = count - 1
    t = T_975[freedom - 1] if freedom <= len(T_975) else Z_95 + (Z_95**3 + Z_95) / (4 * freedom)
    margin = t * deviation / math.sqrt(count)
    return ConfidenceInterval(center, center - margin, center + margin)
