"""Tests of the coverage of the confidence intervals."""

import math

import numpy as np
import pytest

from fabella.evaluation.confidence import exponential, mean, proportion, ratio

TRIALS = 2000
# 95 % ± four standard errors of 2,000 trials; with 200 documents the normal approximation is slightly off, too.
LOWEST, HIGHEST = 0.92, 0.97


def test_a_ratio_is_that_of_the_sums_not_the_mean_of_ratios() -> None:
    assert ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0])).value == 2.5


def test_the_interval_of_a_ratio_covers_the_true_value_in_95_percent_of_trials() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(TRIALS):
        tokens = random.integers(1, 200, 200).astype(np.float64)
        result = ratio(tokens * random.normal(2.0, 0.5, 200), tokens)
        covered += result.low <= 2.0 <= result.high
    assert LOWEST < covered / TRIALS < HIGHEST


def test_the_interval_of_a_proportion_stays_within_0_and_1_and_covers_the_true_value() -> None:
    assert proportion(5, 5).high == 1.0
    assert proportion(0, 5).low == 0.0
    assert proportion(5, 5).low == pytest.approx(0.5655, abs=1e-4)  # Wilson's table
    random = np.random.default_rng(0)
    intervals = [proportion(int(correct), 100) for correct in random.binomial(100, 0.8, TRIALS)]
    assert LOWEST < np.mean([interval.low <= 0.8 <= interval.high for interval in intervals]) < HIGHEST


def test_one_document_and_no_trial_have_no_interval() -> None:
    assert math.isnan(ratio(np.array([4.0]), np.array([2.0])).low)
    assert math.isnan(proportion(0, 0).value)


def test_perplexity_overflows_to_infinity() -> None:
    result = exponential(ratio(np.array([1e6, 0.0]), np.array([1.0, 1.0])))
    assert result.value == math.inf
    assert exponential(ratio(np.array([0.0, 0.0]), np.array([1.0, 1.0]))).value == 1.0


def test_the_t_interval_of_a_mean_contains_the_truth_in_95_of_100_samples() -> None:
    random = np.random.default_rng(1)
    for count in (2, 3, 10, 40):
        samples = random.normal(3.0, 2.0, (4000, count))
        held = [low <= 3.0 <= high for low, high in ((i.low, i.high) for i in map(mean, samples.tolist()))]
        assert abs(sum(held) / len(held) - 0.95) < 0.012


def test_one_value_has_no_interval() -> None:
    assert mean([1.5]).value == 1.5
    assert math.isnan(mean([1.5]).low)
    assert math.isnan(mean([1.5]).high)
