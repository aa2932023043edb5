"""Tests of the order of the training sequences, whose position is one integer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.sampler import PermutationSampler

N, EPOCHS = 13, 3
positions = st.integers(0, 200)


@given(n=st.integers(1, 60), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6))
def test_every_epoch_has_every_sequence_once(n: int, seed: int, epoch: int) -> None:
    sequences = PermutationSampler(n, seed).sequences(epoch * n, (epoch + 1) * n)
    assert sorted(sequences) == list(range(n))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {
        tuple(PermutationSampler(50, seed).sequences(e * 50, e * 50 + 50).tolist())
        for seed in range(20)
        for e in range(20)
    }
    assert len(orders) == 400


@given(n=st.integers(1, 40), seed=st.integers(0, 100), start=positions, middle=positions, stop=positions)
def test_the_documents_do_not_depend_on_block_borders(n: int, seed: int, start: int, middle: int, stop: int) -> None:
    start, middle, stop = sorted((start, middle, stop))
    order = PermutationSampler(n, seed)
    whole = order.sequences(start, stop).tolist()
    assert len(whole) == stop - start
    assert order.sequences(start, middle).tolist() + order.sequences(middle, stop).tolist() == whole


@given(n=st.integers(1, 60), seed=st.integers(0, 100), start=positions, stop=positions)
def test_an_epoch_offset_numbers_the_sequences_of_all_epochs(n: int, seed: int, start: int, stop: int) -> None:
    plain = PermutationSampler(n, seed).sequences(start, stop)
    numbered = PermutationSampler(n, seed, epoch_offset=n).sequences(start, stop)
    np.testing.assert_array_equal(numbered % n, plain)
    np.testing.assert_array_equal(numbered // n, np.arange(start, stop) // n)


@pytest.mark.fault("B10", cases=N * EPOCHS * 5)
def test_resuming_at_every_position_repeats_and_loses_nothing() -> None:
    """Every position of three epochs with every batch size, resumed twice."""
    uninterrupted = PermutationSampler(N, 1).sequences(0, N * EPOCHS + 20).tolist()
    for position in range(N * EPOCHS):
        for batch in (1, 2, 3, 7, 20):
            resumed = PermutationSampler(N, 1)
            first = resumed.sequences(position, position + batch).tolist()
            again = PermutationSampler(N, 1).sequences(position + batch, position + 20).tolist() if batch < 20 else []
            assert first + again == uninterrupted[position : position + 20]


@pytest.mark.parametrize(("position", "epoch"), [(0, 0), (N - 1, 0), (N, 1), (2 * N + 1, 2)])
def test_the_epoch_of_a_position(position: int, epoch: int) -> None:
    assert PermutationSampler(N, 0).epoch(position) == epoch


def test_an_empty_range_has_no_sequences() -> None:
    assert PermutationSampler(5, 1).sequences(7, 7).dtype == np.int64
    assert len(PermutationSampler(5, 1).sequences(7, 7)) == 0


def test_the_order_equals_that_of_the_first_release() -> None:
    """Changing the shuffle would change every run that is resumed after an update."""
    assert PermutationSampler(10, 1).sequences(0, 20).tolist() == [
        *(6, 2, 5, 9, 3, 4, 0, 8, 7, 1),
        *(4, 9, 5, 8, 3, 6, 0, 7, 1, 2),
    ]
