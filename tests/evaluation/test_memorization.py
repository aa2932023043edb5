"""The search finds every copied run, its whole length, and nothing else: by definition, and with planted copies."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fabella.evaluation.memorization import SuffixAutomaton, find_copied
from fabella.evaluation.word_splitting import BETWEEN, words

WORD = st.integers(0, 3)
TEXT = st.lists(WORD, max_size=30)


def by_definition(text: list[int], read: list[list[int]]) -> list[int]:
    """For each word, the longest run up to it that stands anywhere in what was read."""
    found: set[tuple[int, ...]] = set()
    for each in read:
        found |= {tuple(each[a:b]) for a in range(len(each)) for b in range(a + 1, len(each) + 1)}
    return [
        max((n for n in range(1, end + 1) if tuple(text[end - n : end]) in found), default=0)
        for end in range(1, len(text) + 1)
    ]


@given(
    stories=st.lists(st.lists(st.integers(1, 3), max_size=20), min_size=1, max_size=4), read=st.lists(TEXT, max_size=4)
)
def test_runs_are_those_of_the_definition(stories: list[list[int]], read: list[list[int]]) -> None:
    automaton = SuffixAutomaton(stories)
    for each in read:
        automaton.feed(each)
    apart = [[word or -1 for word in each] for each in read]  # 0 stands in no story
    assert automaton.runs() == [by_definition(story, apart) for story in stories]


@given(story=st.lists(st.integers(1, 3), max_size=20), read=TEXT, cut=st.integers(0, 30))
def test_text_in_pieces_is_text(story: list[int], read: list[int], cut: int) -> None:
    whole, pieces = SuffixAutomaton([story]), SuffixAutomaton([story])
    whole.feed(read)
    pieces.feed(read[cut:], *pieces.feed(read[:cut]))
    assert pieces.runs() == whole.runs()


def test_planted_copies_are_found_and_nothing_else() -> None:
    chosen = random.Random(0)
    vocab_size = [f"word{number}" for number in range(5000)]
    training = [chosen.choice(vocab_size) for _ in range(20_000)]
    story = [f"new{number}" for number in range(100)]
    planted = [(10, 700, 25), (50, 15_000, 12), (80, 19_980, 20)]
    for place, source, length in planted:
        story[place : place + length] = training[source : source + length]
    (found,) = find_copied([" ".join(story)], [" ".join(training)])
    expected = [0] * 100
    for place, _, length in planted:
        expected[place : place + length] = range(1, length + 1)
    assert list(found.runs) == expected
    assert list(found.longest) == training[700:725]
    assert found.seen(12) == (14 + 1 + 9, 89)


def test_nothing_is_copied_across_the_ends_of_documents() -> None:
    (found,) = find_copied(["the dog ran home"], [f"the dog {BETWEEN} ran home"])
    assert max(found.runs) == 2


def test_words_are_counted_with_their_marks_and_without_space() -> None:
    assert words('"Don\u2019t!" said Zoë.') == ['"', "Don\u2019t", "!", '"', "said", "Zoë", "."]
    assert words("它说\uff1a好") == ["它", "说", "\uff1a", "好"]
    assert words(" \n") == []
