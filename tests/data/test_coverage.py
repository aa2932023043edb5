"""Tests that coverage counts exactly the tokens that an epoch of training sequences contains."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import Packed, Padded
from fabella.data.coverage import coverage
from fabella.data.sequences import SequenceDataset
from tests.data.samples import split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


@given(
    lengths=st.lists(st.integers(2, 70), min_size=2, max_size=12), length=st.integers(1, 40), stride=st.integers(1, 40)
)
def test_the_tokens_of_all_sequences_are_counted(folder: Path, lengths: list[int], length: int, stride: int) -> None:
    of = split(folder / str(len(list(folder.iterdir()))), lengths, shard_tokens=1000)
    padded = coverage(of, Padded(length=length))
    batch = SequenceDataset(of, Padded(length=length), 0).batch(np.arange(of.documents))
    assert padded.trained_tokens == batch.num_targets
    assert padded.complete_documents == sum(n <= length for n in lengths)
    packed = Packed(length=length, stride=min(stride, length))
    if of.tokens > length:
        count = len(SequenceDataset(of, packed, 0))
        assert coverage(of, packed).trained_tokens == (count - 1) * packed.stride + length + 1
    assert coverage(of, packed).tokens == sum(lengths)


def test_the_share_is_said_in_documents_bytes_and_tokens(folder: Path) -> None:
    of = split(folder / "said", [10, 100], shard_tokens=1000)
    covered = coverage(of, Padded(length=10))
    assert covered.share == 20 / 110
    assert str(covered).startswith("20 of 110 tokens (18.2 %), 1 of 2 documents complete, ")
    assert covered.as_json()["trained_tokens"] == 20
