"""Tests that splits are written chunk by chunk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.dataset import Split, dtype_for
from fabella.data.prepare.shard_writer import SplitWriter
from fabella.data.prepare.tokenize import TokenizedDocuments
from tests.data.samples import all_ids, content

U2 = dtype_for(256)


def encoded(lengths: list[int], first: int = 0) -> TokenizedDocuments:
    ids = np.arange(first, first + sum(lengths)).astype(U2) % 256
    return TokenizedDocuments(ids, np.array(lengths, dtype=np.int64), np.array(lengths, dtype=np.int64) * 3)


@given(chunks=st.lists(st.lists(st.integers(1, 30), max_size=4), min_size=1, max_size=4), shard=st.integers(9, 50))
def test_the_size_of_chunks_does_not_change_the_result(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]], shard: int
) -> None:
    base = tmp_path_factory.mktemp("writing")
    lengths = [length for chunk in chunks for length in chunk]
    with SplitWriter(base / "parts", U2, shard) as parts:
        position = 0
        for chunk in chunks:
            parts.append(encoded(chunk, position))
            position += sum(chunk)
    with SplitWriter(base / "whole", U2, shard) as whole:
        whole.append(encoded(lengths))
    assert content(base / "parts") == content(base / "whole")
    if lengths:
        of = Split(base / "parts", parts.record(), 256)
        assert (of.tokens, of.documents, of.bytes) == (sum(lengths), len(lengths), 3 * sum(lengths))
        assert of.offsets.tolist() == [0, *np.cumsum(lengths).tolist()]
        assert all_ids(of).tolist() == (np.arange(of.tokens) % 256).tolist()
        assert [record.tokens for record in parts.record().shards[:-1]] == [shard] * ((of.tokens - 1) // shard)


def test_select_returns_the_documents_of_a_mask() -> None:
    chunk = encoded([3, 1, 4])
    part = chunk.select(np.array([True, False, True]))
    assert part.ids.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert part.lengths.tolist() == [3, 4]
    assert part.sizes.tolist() == [9, 12]
    assert len(chunk.select(np.array([False] * 3)).ids) == 0
