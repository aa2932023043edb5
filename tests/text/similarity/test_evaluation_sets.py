"""Tests that the sentences of an evaluation set are read, not the wrong ones next to them."""

import json
from pathlib import Path

import pytest

from fabella.config.data import FilesSource, StorybookSource
from fabella.errors import TextError
from fabella.text.similarity.evaluation_sets import evaluation_source
from fabella.text.source import documents


def rows(path: Path, *values: dict[str, str]) -> str:
    path.write_text("\n".join(map(json.dumps, values)))
    return str(path)


def test_the_good_sentences_of_blimp_are_read(tmp_path: Path) -> None:
    pair = {"sentence_good": "The fox runs.", "sentence_bad": "The fox run, which is much longer and wrong."}
    path = rows(tmp_path / "agreement.jsonl", pair, pair)
    assert list(documents(evaluation_source(path))) == ["The fox runs."] * 2


def test_other_sets_and_texts_are_read_as_usual(tmp_path: Path) -> None:
    path = rows(tmp_path / "lambada.jsonl", {"text": "The fox ran home."})
    assert list(documents(evaluation_source(path))) == ["The fox ran home."]
    (tmp_path / "own.txt").write_text("An own text.")
    assert isinstance(evaluation_source(str(tmp_path / "own.txt")), FilesSource)
    (tmp_path / "damaged.jsonl").write_text("not json")
    assert evaluation_source(str(tmp_path / "damaged.jsonl")) == FilesSource(paths=(str(tmp_path / "damaged.jsonl"),))
    assert evaluation_source("storybook:5") == StorybookSource(stories=5)


def test_a_missing_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no file"):
        evaluation_source(str(tmp_path / "absent.jsonl"))
