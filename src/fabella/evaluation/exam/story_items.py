"""Questions from the built-in storybook, whose truth is known because the story was made from it.

Each is a beginning with several continuations, of which only the first is right:

    last word     a passage ends with a thing that was named before: that thing, or others that the story does not name
    entities      a character is named again: the right name, or one of another character of the same kind
    word use      a sentence, and the same with two neighboring words exchanged: no choice has more tokens by its words
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from fabella.text.storybook.generator import library, stories_with_words

SEED = 7_305_071
"""Seed of the stories, which no preset trains on."""
WRONG_THINGS = 3
MIN_WORDS = 5
"""Words of a sentence whose words are exchanged."""
WORD = re.compile(r"[a-z]+")
SENTENCE = re.compile(r"[A-Z][^.!?\n]*[.!?]")

Words = dict[str, str]


@dataclass(frozen=True, slots=True)
class ExamItem:
    """A beginning and its continuations, with their leading spaces; the first one is right."""

    before: str
    choices: tuple[str, ...]


def last_words(count: int) -> list[ExamItem]:
    """Return passages that end with a thing named before."""
    return _items(_last_word, count)


def entities(count: int) -> list[ExamItem]:
    """Return passages with the sentence in which a character is named for the last time."""
    return _items(_entity, count)


def word_use(count: int) -> list[ExamItem]:
    """Return passages with a sentence that has words in a wrong order."""
    return _items(_word_use, count)


def _items(make: Callable[[str, Words, int], ExamItem | None], count: int) -> list[ExamItem]:
    """Return the first ``count`` items, at most one a story; they do not depend on ``count``."""
    return list(islice(_stream(make), count))


def _stream(make: Callable[[str, Words, int], ExamItem | None]) -> Iterator[ExamItem]:
    number = 0
    while True:
        for text, words in stories_with_words(256, seed=SEED, start=number):
            if item := make(text, words, number):
                yield item
            number += 1


def _last_word(text: str, words: Words, number: int) -> ExamItem | None:
    thing = words["thing"]
    places = [match.start() for match in re.finditer(rf"\b{re.escape(thing)}\b", text)]
    if len(places) < 2:
        return None
    others = [other for other in dict.fromkeys(library().things) if not re.search(rf"\b{re.escape(other)}\b", text)]
    wrong = np.random.default_rng([SEED, number]).permutation(len(others))[:WRONG_THINGS].tolist()
    return _item(text, places[-1], [thing, *(others[place] for place in wrong)])


def _entity(text: str, words: Words, number: int) -> ExamItem | None:
    name = words[("Hero", "Friend")[number % 2]]
    places = [match.start() for match in re.finditer(rf"\b{name}\b", text)]
    people = next(
        people for world in library().worlds for people in world.people if name in {person.name for person in people}
    )
    absent = [person.name for person in people if not re.search(rf"\b{person.name}\b", text)]
    if len(places) < 2 or not absent:
        return None
    wrong = absent[int(np.random.default_rng([SEED, number]).integers(len(absent)))]
    rest = re.match(r"[^.!?\n]*[.!?]?", text[places[-1] + len(name) :])
    assert rest is not None
    return _item(text, places[-1], [choice + rest.group() for choice in (name, wrong)])


def _word_use(text: str, words: Words, number: int) -> ExamItem | None:
    sentences = list(SENTENCE.finditer(text))[1:]
    order = np.random.default_rng([SEED, number])
    for place in order.permutation(len(sentences)).tolist():
        sentence = sentences[place].group()
        wrong = _exchanged(sentence, order)
        if wrong:
            return _item(text, sentences[place].start(), [sentence, wrong])
    return None


def _exchanged(sentence: str, order: np.random.Generator) -> str:
    """Return the sentence with two different neighboring words exchanged; empty if it is short."""
    words = sentence.split(" ")
    pairs = [
        place for place in range(1, len(words) - 1)
        if WORD.fullmatch(words[place]) and WORD.fullmatch(words[place + 1]) and words[place] != words[place + 1]
        and "and" not in words[place : place + 2]
    ]  # fmt: skip
    if len(words) < MIN_WORDS or not pairs:
        return ""
    place = pairs[int(order.integers(len(pairs)))]
    words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _item(text: str, start: int, choices: Sequence[str]) -> ExamItem:
    """Return the item whose choices begin at ``start``, with the spaces before it."""
    before = text[:start].rstrip(" ")
    space = text[len(before) : start]
    return ExamItem(before, tuple(space + choice for choice in choices))
