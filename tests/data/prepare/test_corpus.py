"""Passes over the text."""

from pathlib import Path

from fabella.config.data import Given, Held
from fabella.data.prepare.corpus import Passes
from fabella.data.prepare.progress import Progress
from tests.data.samples import data, lines

TEXTS = [f"story {number}" for number in range(30)]


def test_every_pass_is_the_same(tmp_path: Path) -> None:
    passes = Passes(data(lines(tmp_path / "a.txt", TEXTS), Held(fraction=0.2)), None)
    first, second = list(passes.placed("sampling")), list(passes.placed("encoding"))
    assert first == second
    assert [document.text for document in first] == TEXTS
    assert 5 <= sum(document.held_out for document in first) <= 8


def test_a_validation_text_comes_first_and_is_not_trained_on(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3", "other"])
    passes = Passes(data(lines(tmp_path / "a.txt", TEXTS), Given(source=validation)), None)
    placed = list(passes.placed("encoding"))
    assert [(one.text, one.held_out) for one in placed[:2]] == [("story 3", True), ("other", True)]
    assert [one.text for one in placed[2:]] == [text for text in TEXTS if text != "story 3"]
    assert "1 training documents that also stand in the validation text were dropped" in list(passes.sentences())


def test_dropped_documents_are_counted_once_however_many_passes(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3"])
    passes = Passes(data(lines(tmp_path / "a.txt", TEXTS), Given(source=validation)), None)
    for _ in range(3):
        list(passes.placed("encoding"))
    assert "1 training documents that also stand in the validation text were dropped" in list(passes.sentences())


def test_remarks_of_reading_are_those_of_one_pass(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", TEXTS).model_copy(update={"separator": "auto"}))
    passes = Passes(of, None)
    list(passes.placed("sampling"))
    list(passes.placed("encoding"))
    (guess,) = [sentence for sentence in passes.sentences() if "guessed" in sentence]
    assert "(30 documents)" in guess


def test_the_second_pass_knows_how_far_it_is(tmp_path: Path) -> None:
    told: list[Progress] = []
    source = lines(tmp_path / "a.txt", ["long story " * 1000 + str(number) for number in range(300)])
    passes = Passes(data(source), told.append)
    list(passes.placed("sampling"))
    list(passes.placed("encoding"))
    shares = [one.share for one in told if one.doing == "encoding"]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
