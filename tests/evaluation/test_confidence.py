"""Intervals hold what they promise."""

import math

import numpy as np
import pytest

from fabella.evaluation.confidence import exponential, proportion, ratio

TRIALS = 2000
# Of 2,000 trials, 95 % ± four standard errors; with 200 documents the normal law is a little off besides.
LOWEST, HIGHEST = 0.92, 0.97


def test_a_ratio_is_that_of_the_sums_not_the_mean_of_ratios() -> None:
    assert ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0])).value == 2.5


def test_the_interval_holds_the_truth_in_95_of_100_worlds() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(TRIALS):
        tokens = random.integers(1, 200, 200).astype(np.float64)
        found = ratio(tokens * random.normal(2.0, 0.5, 200), tokens)
        held += found.low <= 2.0 <= found.high
    assert LOWEST < held / TRIALS < HIGHEST


def test_a_share_is_never_outside_of_0_and_1_and_holds_the_truth() -> None:
    assert proportion(5, 5).high == 1.0
    assert proportion(0, 5).low == 0.0
    assert proportion(5, 5).low == pytest.approx(0.5655, abs=1e-4)  # Wilson's table
    random = np.random.default_rng(0)
    found = [proportion(int(right), 100) for right in random.binomial(100, 0.8, TRIALS)]
    assert LOWEST < np.mean([each.low <= 0.8 <= each.high for each in found]) < HIGHEST


def test_one_document_and_no_question_have_no_interval() -> None:
    assert math.isnan(ratio(np.array([4.0]), np.array([2.0])).low)
    assert math.isnan(proportion(0, 0).value)


def test_perplexity_overflows_to_infinity() -> None:
    found = exponential(ratio(np.array([1e6, 0.0]), np.array([1.0, 1.0])))
    assert found.value == math.inf
    assert exponential(ratio(np.array([0.0, 0.0]), np.array([1.0, 1.0]))).value == 1.0
