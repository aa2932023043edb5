"""What is counted in stories, on stories short enough to count by hand."""

import pytest

from fabella.evaluation.memorization import find_copied
from fabella.evaluation.text_metrics import TextMetrics, first_words, measure, names_in
from fabella.evaluation.word_splitting import words


def measured(*stories: str, training: str = "", ended: bool = True) -> TextMetrics:
    return measure(find_copied(stories, [training]), [ended] * len(stories))


def test_distinct_runs_are_counted_over_all_stories_and_repeated_ones_within_each() -> None:
    found = measured("a b c d", "a b c d")
    assert found.distinct[1] == 0.5
    assert found.repeated == 0.0
    assert measured("a b c d a b c d").repeated == pytest.approx(1 / 5)


def test_lengths_and_ends() -> None:
    found = measure(find_copied(["a", "a b c"], []), [True, False])
    assert (found.words_mean, found.words_median, found.ended) == (2.0, 2.0, 0.5)


def test_names_have_a_capital_inside_a_sentence_and_count_wherever_they_stand() -> None:
    assert names_in(words("Tom saw Anna. Anna's dog saw I and TOM. The dog ran.")) == ["Anna", "Anna"]
    assert names_in(words('One day Tom came. "Hello," said Tom.')) == ["Tom", "Tom"]
    found = measured("One day Tom met Anna. Tom ran.", "Then came Rob.")
    assert found.name_consistency == pytest.approx(2 / 4)
    assert found.names_a_story == 1.5


def test_copies_and_unknown_words() -> None:
    found = measured("the old dog barked", "the zebra", training="here the old dog slept")
    assert found.copied_longest == "the old dog"
    assert found.copied_mean == 2.0
    assert found.unknown_words == pytest.approx(2 / 6)
    assert found.ngram_overlap[2] == pytest.approx(2 / 4)


def test_stories_without_a_word_have_shares_of_nothing() -> None:
    found = measured("", ended=False)
    assert (found.words_mean, found.distinct[1], found.repeated, found.name_consistency, found.copied_longest) == (
        0,
        0,
        0,
        0,
        "",
    )


def test_an_opening_is_the_text_itself() -> None:
    assert first_words('"Once,"  she said, there was', 4) == '"Once,"'
    assert first_words("Once\nupon a time", 2) == "Once\nupon"
    assert first_words("Once", 6) == "Once"
