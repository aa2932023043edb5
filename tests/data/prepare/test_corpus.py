"""Passes over the text."""

from pathlib import Path

from fabella.config.data import Holdout, ValidationSource
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import PrepareProgress
from tests.data.samples import data, lines

TEXTS = [f"story {number}" for number in range(30)]


def test_every_pass_is_the_same(tmp_path: Path) -> None:
    passes = Corpus(data(lines(tmp_path / "a.txt", TEXTS), Holdout(fraction=0.2)), None)
    first, second = list(passes.split_documents("sampling")), list(passes.split_documents("encoding"))
    assert first == second
    assert [document.text for document in first] == TEXTS
    assert 5 <= sum(document.held_out for document in first) <= 8


def test_a_validation_text_comes_first_and_is_not_trained_on(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3", "other"])
    passes = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    placed = list(passes.split_documents("encoding"))
    assert [(one.text, one.held_out) for one in placed[:2]] == [("story 3", True), ("other", True)]
    assert [one.text for one in placed[2:]] == [text for text in TEXTS if text != "story 3"]
    assert "1 training documents that also stand in the validation text were dropped" in list(passes.sentences())


def test_dropped_documents_are_counted_once_however_many_passes(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3"])
    passes = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    for _ in range(3):
        list(passes.split_documents("encoding"))
    assert "1 training documents that also stand in the validation text were dropped" in list(passes.sentences())


def test_remarks_of_reading_are_those_of_one_pass(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", TEXTS).model_copy(update={"separator": "auto"}))
    passes = Corpus(of, None)
    list(passes.split_documents("sampling"))
    list(passes.split_documents("encoding"))
    (guess,) = [sentence for sentence in passes.sentences() if "guessed" in sentence]
    assert "(30 documents)" in guess


def test_the_second_pass_knows_how_far_it_is(tmp_path: Path) -> None:
    told: list[PrepareProgress] = []
    source = lines(tmp_path / "a.txt", ["long story " * 1000 + str(number) for number in range(300)])
    passes = Corpus(data(source), told.append)
    list(passes.split_documents("sampling"))
    list(passes.split_documents("encoding"))
    shares = [one.share for one in told if one.doing == "encoding"]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
