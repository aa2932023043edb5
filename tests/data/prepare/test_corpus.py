"""Tests that all passes over a corpus are equal, with its splits."""

from pathlib import Path

from fabella.config.data import Holdout, ValidationSource
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import PrepareProgress
from tests.data.samples import data, lines

TEXTS = [f"story {number}" for number in range(30)]


def test_every_pass_is_the_same(tmp_path: Path) -> None:
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), Holdout(fraction=0.2)), None)
    first, second = list(corpus.split_documents("sampling")), list(corpus.split_documents("encoding"))
    assert first == second
    assert [document.text for document in first] == TEXTS
    assert 5 <= sum(document.held_out for document in first) <= 8


def test_a_validation_source_comes_first_and_is_not_trained_on(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3", "other"])
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    documents = list(corpus.split_documents("encoding"))
    assert [(document.text, document.held_out) for document in documents[:2]] == [("story 3", True), ("other", True)]
    assert [document.text for document in documents[2:]] == [text for text in TEXTS if text != "story 3"]
    assert "1 training documents that are also in the validation source were dropped" in list(corpus.messages())


def test_dropped_documents_are_counted_once_over_all_passes(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3"])
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    for _ in range(3):
        list(corpus.split_documents("encoding"))
    assert "1 training documents that are also in the validation source were dropped" in list(corpus.messages())


def test_the_read_report_is_that_of_one_pass(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", ["<|endoftext|>".join(TEXTS)]).model_copy(update={"separator": "auto"}))
    corpus = Corpus(of, None)
    list(corpus.split_documents("sampling"))
    list(corpus.split_documents("encoding"))
    (detection,) = [sentence for sentence in corpus.messages() if "detected" in sentence]
    assert "(30 documents)" in detection


def test_the_second_pass_knows_its_progress(tmp_path: Path) -> None:
    reports: list[PrepareProgress] = []
    source = lines(tmp_path / "a.txt", ["long story " * 1000 + str(number) for number in range(300)])
    corpus = Corpus(data(source), reports.append)
    list(corpus.split_documents("sampling"))
    list(corpus.split_documents("encoding"))
    shares = [report.share for report in reports if report.phase == "encoding"]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
