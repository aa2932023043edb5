"""Laws of paired differences: a run against itself, the order of the runs, the seed, and known distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.evaluation.comparison.paired import bootstrap, percentiles, seed_difference, seeds_to_decide

BITS = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(1, 10_000)), min_size=2, max_size=30)


@given(BITS, st.integers(0, 2**32))
def test_the_order_of_the_runs_flips_the_sign_and_a_run_equals_itself(
    documents: list[tuple[float, float, int]], seed: int
) -> None:
    first, second, sizes = np.array(documents, np.float64).T
    a, b = bootstrap(np.array([first, second]), sizes, resamples=50, seed=seed)
    there, back = percentiles(1.0, a - b, len(sizes)), percentiles(-1.0, b - a, len(sizes))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    same = percentiles(0.0, a - a, len(sizes))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


@given(BITS, st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_bootstrap_whatever_is_compared_with_it(
    documents: list[tuple[float, float, int]], seed: int
) -> None:
    first, second, sizes = np.array(documents, np.float64).T
    together = bootstrap(np.array([first, second]), sizes, resamples=20, seed=seed)
    alone = bootstrap(np.array([second]), sizes, resamples=20, seed=seed)
    np.testing.assert_array_equal(together[1], alone[0])


def test_the_interval_of_the_bootstrap_is_that_of_a_known_distribution() -> None:
    """Documents of equal size with normal differences: the half-width is 1.96 σ / √N."""
    random = np.random.default_rng(0)
    noise, shared = random.normal(0.02, 0.1, 4000), random.normal(3, 1, 4000)
    a, b = bootstrap(np.array([shared + noise, shared]), np.ones(4000), resamples=2000, seed=1)
    interval = percentiles(float(noise.mean()), a - b, 4000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * noise.std() / math.sqrt(4000), rel=0.08)
    unpaired = math.hypot(
        (np.quantile(a, 0.975) - np.quantile(a, 0.025)), np.quantile(b, 0.975) - np.quantile(b, 0.025)
    )
    assert interval.high - interval.low < unpaired / 5, "what documents have in common cancels"


def test_one_document_has_no_interval() -> None:
    assert math.isnan(percentiles(1.0, np.ones(5), 1).low)


def test_differences_are_paired_by_seed() -> None:
    first, second = {1: 1.5, 2: 2.5, 3: 3.5, 9: 7.0}, {3: 3.0, 2: 2.2, 1: 1.1}
    result = seed_difference(first, second)
    assert result is not None
    assert result.seeds == (1, 2, 3)
    assert result.differences == pytest.approx((0.4, 0.3, 0.5))
    # t of two degrees of freedom, deviation 0.1
    assert result.interval.high - result.interval.value == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert result.decided
    back = seed_difference(second, first)
    assert back is not None
    assert back.interval.value == pytest.approx(-result.interval.value)
    assert back.seeds_to_decide == result.seeds_to_decide
    assert seed_difference({1: 1.0}, {2: 1.0}) is None


def test_seeds_to_decide_follow_the_rule_of_16() -> None:
    """Differences of deviation 0.0199·√2, so arms of deviation 0.0199, and δ = 0.01: 16 · 3.96 = 63.4 seeds."""
    differences = [0.01 + 0.0199 * math.sqrt(2) * sign * math.sqrt(3 / 4) for sign in (1, -1, 1, -1)]
    assert seeds_to_decide(differences) == 64
    assert seeds_to_decide([0.01]) is None
    assert seeds_to_decide([0.01, -0.01]) is None
    assert seeds_to_decide([0.5, 0.5]) == 2
