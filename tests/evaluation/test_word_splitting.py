"""Tests that the text of a tokenized split equals the original text."""

from itertools import pairwise
from pathlib import Path

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.evaluation import word_splitting
from fabella.evaluation.word_splitting import DOCUMENT_END, text_of
from tests.training import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("ids", [1, 7, 2**18])
def test_the_text_does_not_depend_on_the_chunk_size(
    data: TokenizedDataset, ids: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_splitting, "CHUNK_TOKENS", ids)
    chunks = list(text_of(data.train, data.tokenizer))
    expected = [
        data.tokenizer.decode(data.train.read(start, stop - 1).tolist())
        for start, stop in pairwise(data.train.offsets.tolist())
    ]
    assert "".join(chunks) == "".join(text + DOCUMENT_END for text in expected)
    assert all(chunk.endswith(" ") or not chunk for chunk in chunks[:-1])


def test_chunks_have_a_bounded_size(data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_splitting, "CHUNK_TOKENS", 64)
    assert max(map(len, text_of(data.train, data.tokenizer))) < 200
