"""Tests that documents of one text that are in another are found and named."""

from collections.abc import Iterable

import pytest

from fabella.text.similarity.overlap import MIN_WORDS, RUN_WORDS, Overlap, OverlapFinder
from tests.data.samples import words

TRAINING = [words(number, 60) for number in range(30)]


def overlap(others: list[str], training: Iterable[str] = TRAINING, **settings: int) -> Overlap:
    finder = OverlapFinder("the others", others, **settings)
    for text in training:
        finder.add(text)
    return finder.result(lambda: others)


def part(text: str, first: int, count: int) -> str:
    return " ".join(text.split()[first : first + count])


def test_a_document_with_a_common_run_overlaps_and_names_the_training_document() -> None:
    common = f"A new beginning. {part(TRAINING[7], 20, RUN_WORDS).upper()}! And a new end."
    found = overlap([words(99, 40), common])
    assert (found.documents, found.overlapping, found.common_runs) == (2, 1, 1)
    (example,) = found.examples
    assert (example.document, example.training_document) == (2, 8)
    assert "1 of 2 documents (50.0 %)" in str(found)
    assert "2 ('A new beginning." in str(found)
    assert "also in training document 8" in str(found)


def test_a_run_that_is_one_word_too_short_does_not_overlap() -> None:
    almost = f"{words(50, 5)} xyz {part(TRAINING[7], 20, RUN_WORDS - 1)} xyz {words(51, 5)}"
    assert overlap([almost]).overlapping == 0


def test_a_short_document_overlaps_if_all_of_it_is_in_the_text() -> None:
    sentence = part(TRAINING[3], 10, 6)
    found = overlap([sentence, f"{sentence} xyz", part(TRAINING[3], 0, MIN_WORDS - 1)])
    assert (found.documents, found.skipped, found.overlapping) == (2, 1, 1)
    assert "1 were not compared, with fewer than 5 words" in str(found)


def test_a_large_text_is_sampled_within_a_bound() -> None:
    others = [words(1000 + number, 30) for number in range(200)] + TRAINING
    found = overlap(others, max_runs=500)
    assert found.runs <= 500
    assert 0 < found.documents + found.skipped == len(others)
    assert 0 < found.overlapping == sum(number % 16 == 0 for number in range(200, 230))


def test_nothing_overlaps_with_nothing() -> None:
    assert overlap([]).as_json()["share"] == 0.0
    assert overlap(TRAINING[:1], []).overlapping == 0


@pytest.mark.parametrize("texts", [TRAINING, TRAINING[:1]])
def test_a_text_overlaps_with_itself_entirely(texts: list[str]) -> None:
    found = overlap(texts)
    assert (found.overlapping, found.common_runs) == (len(texts), found.runs)
