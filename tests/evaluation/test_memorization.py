"""Tests that the search finds every copied run of words at full length and nothing else."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fabella.evaluation.memorization import SuffixAutomaton, find_copied
from fabella.evaluation.word_splitting import DOCUMENT_END, words

WORD = st.integers(0, 3)
TEXT = st.lists(WORD, max_size=30)


def by_definition(text: list[int], training: list[list[int]]) -> list[int]:
    """Return for each word the length of the longest run up to it that occurs in the training texts."""
    ngrams: set[tuple[int, ...]] = set()
    for document in training:
        size = len(document)
        ngrams |= {tuple(document[a:b]) for a in range(size) for b in range(a + 1, size + 1)}
    return [
        max((n for n in range(1, end + 1) if tuple(text[end - n : end]) in ngrams), default=0)
        for end in range(1, len(text) + 1)
    ]


@given(
    stories=st.lists(st.lists(st.integers(1, 3), max_size=20), min_size=1, max_size=4), read=st.lists(TEXT, max_size=4)
)
def test_runs_equal_the_definition(stories: list[list[int]], read: list[list[int]]) -> None:
    automaton = SuffixAutomaton(stories)
    for document in read:
        automaton.feed(document)
    training = [[word or -1 for word in document] for document in read]  # no story contains 0
    assert automaton.runs() == [by_definition(story, training) for story in stories]


@given(story=st.lists(st.integers(1, 3), max_size=20), read=TEXT, cut=st.integers(0, 30))
def test_text_can_be_fed_in_chunks(story: list[int], read: list[int], cut: int) -> None:
    whole, chunks = SuffixAutomaton([story]), SuffixAutomaton([story])
    whole.feed(read)
    chunks.feed(read[cut:], *chunks.feed(read[:cut]))
    assert chunks.runs() == whole.runs()


def test_planted_copies_are_found_and_nothing_else() -> None:
    chosen = random.Random(0)
    vocabulary = [f"word{number}" for number in range(5000)]
    training = [chosen.choice(vocabulary) for _ in range(20_000)]
    story = [f"new{number}" for number in range(100)]
    planted = [(10, 700, 25), (50, 15_000, 12), (80, 19_980, 20)]
    for start, source, length in planted:
        story[start : start + length] = training[source : source + length]
    (result,) = find_copied([" ".join(story)], [" ".join(training)])
    expected = [0] * 100
    for start, _, length in planted:
        expected[start : start + length] = range(1, length + 1)
    assert list(result.runs) == expected
    assert list(result.longest) == training[700:725]
    assert result.ngram_overlap(12) == (14 + 1 + 9, 89)


def test_nothing_is_copied_across_the_ends_of_documents() -> None:
    (result,) = find_copied(["the dog ran home"], [f"the dog {DOCUMENT_END} ran home"])
    assert max(result.runs) == 2


def test_words_include_punctuation_and_exclude_space() -> None:
    assert words('"Don\u2019t!" said Zoë.') == ['"', "Don\u2019t", "!", '"', "said", "Zoë", "."]
    assert words("它说\uff1a好") == ["它", "说", "\uff1a", "好"]
    assert words(" \n") == []
