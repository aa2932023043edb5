"""Statistics of paired differences: over documents by the bootstrap, over seeds by Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.evaluation.confidence import ConfidenceInterval, mean

RESAMPLES = 2000
"""Resamples of a bootstrap: enough for bounds with an error of about 3 % of the interval's width."""
MAX_DRAWN = 2**21
"""Documents drawn at once."""


def bootstrap(
    bits: NDArray[np.float64], sizes: NDArray[np.float64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return Σ bits / Σ sizes of each run, [R, resamples], on documents drawn with replacement.

    ``bits``: of each run and document, [R N]; ``sizes``: bytes of each document, [N]. Every run has the same draws, so
    the difference of two rows is a bootstrap of the paired difference (Efron and Tibshirani 1993, chapter 6). The same
    ``seed`` gives the same draws.
    """
    count = len(sizes)
    random = np.random.default_rng(seed)
    at_once = max(1, MAX_DRAWN // count)
    totals = np.empty((len(bits), resamples))
    for first in range(0, resamples, at_once):
        drawn = random.integers(count, size=(min(at_once, resamples - first), count))
        below = sizes[drawn].sum(axis=1)
        for row, run in enumerate(bits):
            totals[row, first : first + len(drawn)] = run[drawn].sum(axis=1) / below
    return totals


def percentiles(value: float, resampled: NDArray[np.float64], count: int) -> ConfidenceInterval:
    """Return ``value`` with the central 95 % of its resamples; NaN bounds for fewer than 2 documents (``count``)."""
    if count < 2:
        return ConfidenceInterval(value)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return ConfidenceInterval(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """Differences of two variants at equal seeds, first minus second."""

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    interval: ConfidenceInterval
    """Mean with its paired t interval; NaN bounds for one seed: the spread over seeds is unknown."""
    seeds_to_decide: int | None
    """Seeds of each variant that a difference of this size would need; None if it is 0 or the spread is unknown."""

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.low > 0 or self.interval.high < 0


def seed_difference(first: dict[int, float], second: dict[int, float]) -> SeedDifference | None:
    """Return the paired differences of scores by seed; None without a common seed."""
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    return SeedDifference(tuple(seeds), tuple(differences), mean(differences), seeds_to_decide(differences))


def seeds_to_decide(differences: Sequence[float]) -> int | None:
    """Return how many seeds a variant needs to show a difference of this size: 5 % test, 80 % power.

    n = 16 σ² / δ² for each of two variants of deviation σ; paired, σ² is half of the variance of the differences.
    """
    count = len(differences)
    delta = math.fsum(differences) / count
    if count < 2 or not delta:
        return None
    variance = math.fsum((difference - delta) ** 2 for difference in differences) / (count - 1)
    return max(2, math.ceil(16 * (variance / 2) / delta**2))
