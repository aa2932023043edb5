"""Tests of text metrics on texts that are short enough to count by hand."""

import pytest

from fabella.evaluation.memorization import find_copied
from fabella.evaluation.text_metrics import TextMetrics, first_words, measure, names_in
from fabella.evaluation.word_splitting import words


def measured(*stories: str, training: str = "", ended: bool = True) -> TextMetrics:
    return measure(find_copied(stories, [training]), [ended] * len(stories))


def test_distinct_ngrams_are_counted_over_all_texts_and_repeated_ones_within_each() -> None:
    result = measured("a b c d", "a b c d")
    assert result.distinct[1] == 0.5
    assert result.repeated == 0.0
    assert measured("a b c d a b c d").repeated == pytest.approx(1 / 5)


def test_lengths_and_the_share_of_ended_texts() -> None:
    result = measure(find_copied(["a", "a b c"], []), [True, False])
    assert (result.words_mean, result.words_median, result.ended) == (2.0, 2.0, 0.5)


def test_names_are_capitalized_inside_a_sentence_and_counted_everywhere() -> None:
    assert names_in(words("Tom saw Anna. Anna's dog saw I and TOM. The dog ran.")) == ["Anna", "Anna"]
    assert names_in(words('One day Tom came. "Hello," said Tom.')) == ["Tom", "Tom"]
    result = measured("One day Tom met Anna. Tom ran.", "Then came Rob.")
    assert result.name_consistency == pytest.approx(2 / 4)
    assert result.names_per_story == 1.5


def test_copied_runs_and_unknown_words() -> None:
    result = measured("the old dog barked", "the zebra", training="here the old dog slept")
    assert result.copied_longest == "the old dog"
    assert result.copied_mean == 2.0
    assert result.unknown_words == pytest.approx(2 / 6)
    assert result.ngram_overlap[2] == pytest.approx(2 / 4)


def test_empty_texts_have_shares_of_0() -> None:
    result = measured("", ended=False)
    assert (result.words_mean, result.distinct[1], result.repeated, result.name_consistency, result.copied_longest) == (
        0,
        0,
        0,
        0,
        "",
    )


def test_first_words_are_a_verbatim_prefix() -> None:
    assert first_words('"Once,"  she said, there was', 4) == '"Once,"'
    assert first_words("Once\nupon a time", 2) == "Once\nupon"
    assert first_words("Once", 6) == "Once"
