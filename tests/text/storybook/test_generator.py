"""Tests that storybook stories are reproducible, distinct, of the right length, and free of mistakes in English."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice

import numpy as np
import pytest

from fabella.text.storybook.generator import (
    BATCH_STORIES,
    CASTS,
    CHOICES,
    CHOICES_OF_WORDS,
    PLOT_FILES,
    draws,
    library,
    plot_text,
    stories,
)
from fabella.text.storybook.grammar import SHE, Cast, Plot, parse_plots

SHORTEST, LONGEST = 60, 200  # words
TEXTS = [plot_text(name) for name in PLOT_FILES]
FRAGMENTS = plot_text("fragments")
PLOTS = parse_plots(FRAGMENTS, *TEXTS)
PEOPLE = [person for world in library().worlds for people in world.people for person in people]
NAMES = [person.name for person in PEOPLE]
ELDERS = {person.elder for person in PEOPLE}


@cache
def book() -> list[str]:
    """Return the first 20,000 stories, written at the first use: collecting the tests needs none."""
    return list(stories(20_000, seed=1))


# ---------------------------------------------------------------- which story


@pytest.mark.parametrize("start", [0, 1, BATCH_STORIES - 1, BATCH_STORIES, 5000])
def test_a_story_does_not_depend_on_the_others(start: int) -> None:
    assert list(stories(3, seed=1, start=start)) == book()[start : start + 3]


def test_another_seed_gives_other_stories() -> None:
    assert not set(stories(1000, seed=2)) & set(book())
    assert list(stories(5, seed=2**64 + 1)) == book()[:5]
    assert list(islice(stories(10**12, seed=-1), 2)) != list(islice(stories(10**12, seed=1), 2))


def test_all_stories_are_distinct() -> None:
    assert len(set(book())) == len(book())


def test_millions_of_stories_are_distinct() -> None:
    """Counted for each plot, without the words that are drawn for it."""
    for plots in library().plots.values():
        for plot in plots:
            ways = np.prod([float(len(set(beat))) for beat in plot.beats]) * max(len(plot.rows), 1)
            heroes, friends, homes, days = 6, 5, 12, 12
            assert ways * heroes * friends * homes * days > 1_000_000


def test_choices_are_random_numbers() -> None:
    drawn = draws(7, 0, 4000)
    assert drawn.shape == (4000, CHOICES)
    assert len(np.unique(drawn)) > 0.9999 * drawn.size
    # The mean of 160,000 uniform numbers is within 4 standard deviations: 0.003 of the range.
    assert abs(drawn.mean() / 2**32 - 0.5) < 0.003
    # Neighboring stories and neighboring choices are uncorrelated: correlations within 4 / √160,000.
    for first, second in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_there_are_enough_choices_for_the_longest_plot() -> None:
    assert max(len(plot.beats) for plots in library().plots.values() for plot in plots) <= CHOICES - CHOICES_OF_WORDS


# ---------------------------------------------------------------- how long


def pick(texts: Iterable[str], choose: Callable[..., str]) -> str:
    return choose(texts, key=lambda text: len(text.split()))


def word_count(plot: Plot, cast: Cast, choose: Callable[..., str]) -> int:
    """Count the words of the longest (``max``) or shortest (``min``) story of a plot."""
    book = library()
    world = book.worlds[cast.world == "woods"]
    thing, treat, spot = (pick(texts, choose) for texts in (book.things, world.treats, world.spots))
    slots = {
        "Hero": "Mia",
        "hero": "singer",
        "a_hero": "a little singer",
        "home": pick(world.homes, choose),
        "Friend": "Tom",
        "a_friend": f"a drummer{pick(world.friends_have, choose)}",
        "Elder": pick(ELDERS, choose),
        "Day": pick(book.days, choose),
        "a_color": "a red ",
        "thing": thing,
        "a_thing": f"a red {thing}",
        "treats": treat,
        "a_treats": f"{pick(book.containers, choose)}{treat}",
        "place": pick((place for place, _ in world.places), choose),
        "at_place": pick((at_place for _, at_place in world.places), choose),
        "spot": spot,
        "spot2": spot,
        "spot3": spot,
        "hand": "hand",
        "hands": "hands",
    }
    versions: list[str] = []
    for row in plot.rows or ((),):
        filled = slots | {slot: template % slots for slot, template in row}
        versions.append("".join(pick((variant % filled for variant in beat), choose) for beat in plot.beats))
    return len(pick(versions, choose).split())


@pytest.mark.parametrize("number", range(len(PLOTS)), ids=[plot.name for plot in PLOTS])
def test_every_story_of_a_plot_has_60_to_200_words(number: int) -> None:
    """Also checks that every variant has its slots, for every cast."""
    for cast, plots in library().plots.items():
        assert word_count(plots[number], cast, min) >= SHORTEST
        assert word_count(plots[number], cast, max) <= LONGEST


# ---------------------------------------------------------------- good English


def test_there_are_more_than_a_thousand_words() -> None:
    assert len(Counter(re.findall(r"[a-z']+", " ".join(book()).lower()))) > 1000


def matches(pattern: str) -> list[str]:
    return [match.group() for story in book() for match in re.finditer(pattern, story)]


@pytest.mark.parametrize(
    "pattern",
    [
        r"[{}%~|¶@_]",  # remains of the notation
        r"  | \n|\n |\n\n\n|^\s|\s$",  # white space
        r"\b[Aa] [aeiou]\w*",  # "a owl"
        r"\b[Aa]n [^aeiou\W]\w*",  # "an fox"
        r"\b(\w+) \1\b(?<!so so)",  # "the the"
        r"[.!?,][.!?,]|\s[.!?,]",  # ".."
        r"[.!?] [a-z]",  # a sentence with a lower-case start
        r'[a-z] "[a-z]',  # speech without a comma before it
        r'" "',  # two speakers with nothing between them
        r"\b(?:girl|boy|Mom|Dad)'?s? (?:its|it)\b",
    ],
)
def test_stories_have_no_typographical_mistakes(pattern: str) -> None:
    assert matches(pattern)[:5] == []


def test_every_story_starts_with_a_capital_and_ends_with_a_full_stop() -> None:
    for story in book():
        assert re.match(r"[A-Z]", story)
        assert re.search(r'[.!?]"?$', story)


def test_quotation_marks_come_in_pairs_in_every_paragraph() -> None:
    assert [part for story in book() for part in story.split("\n\n") if part.count('"') % 2] == []


def test_most_stories_begin_with_once_upon_a_time() -> None:
    share = sum(story.startswith("Once upon a time") for story in book()) / len(book())
    assert 0.4 < share < 0.7


# The longest first: "Grandma Hen" is not Grandma.
ELDER = re.compile("|".join(sorted(ELDERS, key=len, reverse=True)))


def test_every_story_keeps_to_its_hero_friend_and_elder() -> None:
    for story in book():
        assert 1 <= len(set(NAMES) & set(re.findall(r"\w+", story))) <= 2
        assert len(set(ELDER.findall(story))) <= 1


def test_names_are_unique_and_name_nothing_else() -> None:
    assert len(set(NAMES)) == len(NAMES)
    small = set(re.findall(r"\b[a-z]+\b", " ".join(book())))
    assert not {name.lower() for name in NAMES} & small


def test_each_person_is_the_same_in_every_story() -> None:
    introductions = set(re.findall(r"an? (?:\w+ )?(fox|mole|otter|dancer|cook) named (\w+)", " ".join(book())))
    assert introductions == {
        ("fox", "Rory"), ("mole", "Barley"), ("otter", "Olive"), ("dancer", "Lily"), ("cook", "Omar"),
    }  # fmt: skip
    elders = {ELDER.findall(story)[0] for story in book() if "named Rory" in story and ELDER.search(story)}
    assert elders == {"Mr. Toad"}


def test_each_person_has_a_kind_of_its_own() -> None:
    assert len({person.being for person in PEOPLE}) == len(PEOPLE)


def test_pronouns_are_slots_except_for_three_strangers() -> None:
    """All others are ``{he}``, so that they agree with the person that is drawn."""
    text = "\n".join([*TEXTS, FRAGMENTS])
    lines = re.findall(r"[^.|\n]*\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im|herself|himself)\b(?![^{\n]*\})[^.|\n]*", text)
    assert sorted(line.strip() for line in lines) == [
        "He looks so happy with it",
        "It suits her so well",
        "an old traveler knocked at the door, and he knew a hundred stories",
    ]


def test_heroines_have_the_pronoun_she_throughout() -> None:
    cast = CASTS.index(Cast("home", heroine=True, friend_is_she=True))
    heroine_stories = [
        story
        for story, row in zip(book(), draws(1, 0, len(book())).tolist(), strict=True)
        if row[0] % len(CASTS) == cast
    ]
    assert len(heroine_stories) > 1000
    strangers = ("He looks so happy with it", "and he knew a hundred stories")
    for story in heroine_stories:
        for stranger in strangers:
            story = story.replace(stranger, "")
        assert not re.search(r"\b(?:he|his|him|himself)\b", story, re.IGNORECASE)
        assert any(re.search(rf"\b{pronoun}\b", story) for pronoun in SHE.values())


def test_the_three_spots_of_a_story_differ() -> None:
    searched = re.compile(r"looked (.+?)\. (?:It was not there|Nobody)\. (?:He|She) looked (.+?)\. (?:It|Nobody)")
    pairs = [match.groups() for story in book() if (match := searched.search(story))]
    assert len(pairs) > 100
    assert all(first != second for first, second in pairs)
