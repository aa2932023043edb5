"""The shuffle without a table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.permutation import permute, splitmix64

keys = st.integers(0, 2**80)
# Of 1,000 shuffled numbers: the chance of a fair shuffle to lie farther off is below one in a million.
MOST_DISTANCE, LEAST_DISTANCE = 380, 290


@given(n=st.integers(1, 700), key=keys)
def test_it_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(n=st.integers(1, 2**62), key=keys, data=st.data())
def test_it_stays_in_range_and_keeps_different_numbers_apart(n: int, key: int, data: st.DataObject) -> None:
    indices = np.unique(np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))))
    shuffled = permute(indices, n, key)
    assert shuffled.min() >= 0
    assert shuffled.max() < n
    assert len(np.unique(shuffled)) == len(indices)


@given(n=st.integers(1, 1000), key=keys, data=st.data())
def test_each_index_goes_its_way_alone(n: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, n - 1))
    assert permute(np.array([index]), n, key)[0] == permute(np.arange(n), n, key)[index]


def test_it_takes_any_shape() -> None:
    indices = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(permute(indices, 30, 5).ravel(), permute(indices.ravel(), 30, 5))
    assert permute(np.empty((0, 4), dtype=np.int64), 7, 1).shape == (0, 4)


@pytest.mark.parametrize("n", [10, 1000, 2**16, 10**6])
def test_another_key_is_another_order(n: int) -> None:
    first = np.arange(10)
    orders = {tuple(permute(first, n, key).tolist()) for key in range(100)}
    assert len(orders) >= 99


def test_the_key_counts_beyond_64_bits() -> None:
    first = np.arange(50)
    assert permute(first, 1000, 1).tolist() != permute(first, 1000, 1 + 2**64).tolist()


def test_neighbours_are_far_apart() -> None:
    """Between two fair random places of n there is a third of n on average."""
    for key in range(50):
        distance = np.abs(np.diff(permute(np.arange(1000), 1000, key))).mean()
        assert LEAST_DISTANCE < distance < MOST_DISTANCE


@pytest.mark.parametrize("n", [2, 3, 5, 17, 100])
def test_every_place_is_as_likely(n: int) -> None:
    """Where index 0 goes under 2,000 keys; six standard deviations of a binomial count."""
    places = np.array([permute(np.array([0]), n, key)[0] for key in range(2000)])
    expected = 2000 / n
    counts = np.bincount(places, minlength=n)
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_mix_knows_its_published_values() -> None:
    """SplitMix64 from state 0 (Steele et al. 2014) begins so."""
    golden = 0x9E3779B97F4A7C15
    assert splitmix64(golden) == 0xE220A8397B1DCDAF
    assert splitmix64(2 * golden) == 0x6E789E6AA1B965F4


def test_an_index_out_of_range_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        permute(np.array([5]), 5, 0)
