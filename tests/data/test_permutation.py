"""Tests of the keyed permutation without a table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.permutation import permute

keys = st.integers(0, 2**80)
# Mean distance of neighbors among 1,000 shuffled numbers; a fair shuffle is outside with a chance below 1e-6.
MAX_DISTANCE, MIN_DISTANCE = 380, 290


@given(n=st.integers(1, 700), key=keys)
def test_permute_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(n=st.integers(1, 2**62), key=keys, data=st.data())
def test_images_are_in_range_and_distinct(n: int, key: int, data: st.DataObject) -> None:
    indices = np.unique(np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))))
    shuffled = permute(indices, n, key)
    assert shuffled.min() >= 0
    assert shuffled.max() < n
    assert len(np.unique(shuffled)) == len(indices)


@given(n=st.integers(1, 1000), key=keys, data=st.data())
def test_the_image_of_an_index_does_not_depend_on_the_others(n: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, n - 1))
    assert permute(np.array([index]), n, key)[0] == permute(np.arange(n), n, key)[index]


def test_permute_accepts_any_shape() -> None:
    indices = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(permute(indices, 30, 5).ravel(), permute(indices.ravel(), 30, 5))
    assert permute(np.empty((0, 4), dtype=np.int64), 7, 1).shape == (0, 4)


@pytest.mark.parametrize("n", [10, 1000, 2**16, 10**6])
def test_different_keys_give_different_orders(n: int) -> None:
    first = np.arange(10)
    orders = {tuple(permute(first, n, key).tolist()) for key in range(100)}
    assert len(orders) >= 99


def test_keys_that_differ_beyond_64_bits_give_different_orders() -> None:
    first = np.arange(50)
    assert permute(first, 1000, 1).tolist() != permute(first, 1000, 1 + 2**64).tolist()


def test_neighbors_are_far_apart() -> None:
    """The mean distance of two random positions among n is n / 3."""
    for key in range(50):
        distance = np.abs(np.diff(permute(np.arange(1000), 1000, key))).mean()
        assert MIN_DISTANCE < distance < MAX_DISTANCE


@pytest.mark.parametrize("n", [2, 3, 5, 17, 100])
def test_every_position_is_equally_likely(n: int) -> None:
    """Images of index 0 under 2,000 keys; six standard deviations of a binomial count."""
    positions = np.array([permute(np.array([0]), n, key)[0] for key in range(2000)])
    expected = 2000 / n
    counts = np.bincount(positions, minlength=n)
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_an_index_out_of_range_fails_an_assertion() -> None:
    with pytest.raises(AssertionError):
        permute(np.array([5]), 5, 0)
