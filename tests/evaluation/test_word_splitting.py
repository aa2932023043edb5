"""The text of prepared ids is the text that was prepared."""

from itertools import pairwise
from pathlib import Path

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.evaluation import word_splitting
from fabella.evaluation.word_splitting import BETWEEN, text_of
from tests.training import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("ids", [1, 7, 2**18])
def test_all_text_comes_back_whatever_the_pieces(
    data: TokenizedDataset, ids: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_splitting, "IDS_AT_ONCE", ids)
    pieces = list(text_of(data.train, data.tokenizer))
    expected = [
        data.tokenizer.decode(data.train.read(start, stop - 1).tolist())
        for start, stop in pairwise(data.train.offsets.tolist())
    ]
    assert "".join(pieces) == "".join(text + BETWEEN for text in expected)
    assert all(piece.endswith(" ") or not piece for piece in pieces[:-1])


def test_text_comes_in_pieces_of_bounded_size(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_splitting, "IDS_AT_ONCE", 64)
    assert max(map(len, text_of(data.train, data.tokenizer))) < 200
