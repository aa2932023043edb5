"""Tests that batches are prefetched on a thread."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fabella.config.data import Packed
from fabella.data.batches import Batch
from fabella.data.loader import prefetch_loader
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import SequenceDataset
from fabella.errors import PreparedDataError
from tests.data.samples import split


@pytest.fixture
def dataset(tmp_path: Path) -> SequenceDataset:
    return SequenceDataset(split(tmp_path / "train", [40] * 20), Packed(length=10, stride=5), 0)


def threads() -> int:
    return sum(thread.name.startswith("fabella-loader") for thread in threading.enumerate())


@pytest.mark.parametrize("prefetch", [1, 2, 4, 50])
def test_batches_follow_the_sampler(dataset: SequenceDataset, prefetch: int) -> None:
    sampler, sizes = PermutationSampler(len(dataset), 1), [3, 1, 7, 200, 2]
    with prefetch_loader(dataset, sampler, 5, iter(sizes), prefetch) as batches:
        made = list(batches)
    position = 5
    for batch, size in zip(made, sizes, strict=True):
        expected = dataset.batch(sampler.sequences(position, position + size))
        np.testing.assert_array_equal(batch.tokens, expected.tokens)
        np.testing.assert_array_equal(batch.targets, expected.targets)
        position += size
    assert threads() == 0


@pytest.mark.fault("B10", cases=40)
def test_a_loader_resumes_exactly_at_any_batch(dataset: SequenceDataset) -> None:
    sampler = PermutationSampler(len(dataset), 2)
    with prefetch_loader(dataset, sampler, 0, itertools.repeat(11, 40)) as batches:
        uninterrupted = [batch.tokens.tobytes() for batch in batches]
    for start in range(40):
        with prefetch_loader(dataset, sampler, 11 * start, itertools.repeat(11, 40 - start)) as batches:
            assert [batch.tokens.tobytes() for batch in batches] == uninterrupted[start:]


class Counted(SequenceDataset):
    """Sequences that count their batches, and fail at one of them."""

    def __init__(self, dataset: SequenceDataset, fails_at: int = -1) -> None:
        self.dataset, self.fails_at, self.made = dataset, fails_at, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        self.made += 1
        if self.made == self.fails_at:
            raise PreparedDataError("train/shard-00000.npy, offset 7: id 999 is outside of the vocabulary.")
        return self.dataset.batch(indices)


def test_the_number_of_prefetched_batches_is_bounded(dataset: SequenceDataset) -> None:
    counted = Counted(dataset)
    with prefetch_loader(counted, PermutationSampler(len(dataset), 1), 0, itertools.repeat(1), prefetch=3) as batches:
        for _ in range(10):
            next(batches)
    assert 10 <= counted.made <= 13


def test_an_error_on_the_thread_is_raised_in_its_place(dataset: SequenceDataset) -> None:
    batches = prefetch_loader(Counted(dataset, fails_at=3), PermutationSampler(len(dataset), 1), 0, itertools.repeat(1))
    next(batches)
    next(batches)
    with pytest.raises(PreparedDataError, match="offset 7: id 999"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert threads() == 0


def test_a_closed_loader_has_no_thread_and_no_batches(dataset: SequenceDataset) -> None:
    batches = prefetch_loader(dataset, PermutationSampler(len(dataset), 1), 0, itertools.repeat(1))
    next(batches)
    batches.close()
    batches.close()
    assert threads() == 0
    assert list(batches) == []


def test_an_error_of_the_sizes_is_not_lost(dataset: SequenceDataset) -> None:
    def sizes() -> Iterator[int]:
        yield from (1, 1)
        raise ValueError("no schedule")

    with pytest.raises(ValueError, match="no schedule"):
        prefetch_loader(dataset, PermutationSampler(len(dataset), 1), 0, sizes())
    assert threads() == 0
