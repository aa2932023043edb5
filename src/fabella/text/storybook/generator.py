"""Built-in story generator: any number of short stories of 60 to 200 words with a beginning, a middle and an end.

A story follows a plot: a hero wants something, something goes wrong, a friend helps, all ends well. It takes place in
one of two worlds, with a hero, a friend, an elder, a thing and places that stay the same to its end. One variant of
each beat of the plot is drawn. The words are in words.py, the plots in plots/*.txt, their notation in grammar.py.
In the spirit of TinyStories (Eldan & Li 2023, arXiv 2305.07759).
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fabella.splitmix64 import GAMMA, splitmix64
from fabella.text.storybook import words as words
from fabella.text.storybook.grammar import Cast, Plot, casts, parse_plots, word_plot

PLOT_FILES = ("friends", "growing_up", "wonders")
"""Files of plots/ in the order of the plots; a draw is an index into it, so new files go to the end."""
CHOICES = 40
"""Random numbers per story: those for its words, below, and one for each beat of its plot."""
CHOICES_OF_WORDS = 20
"""Random numbers per story that choose the plot and the words."""
CASTS = tuple(casts())
BATCH_STORIES = 1024
"""Stories whose random numbers are computed at once."""
VOWELS = "aeiou"


def stories(count: int, *, seed: int, start: int = 0) -> Iterator[str]:
    """Yield stories ``start`` to ``start + count - 1`` of ``seed``. Each story depends only on its number and seed."""
    for first in range(start, start + count, BATCH_STORIES):
        drawn = draws(seed, first, min(BATCH_STORIES, start + count - first))
        yield from map(_write_story, drawn.tolist())


def stories_with_words(count: int, *, seed: int, start: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the same stories, each with the words that were drawn for it, by their names in the plots: Hero, thing."""
    for draw in draws(seed, start, count).tolist():
        yield _story_with_words(draw)


def draws(seed: int, first: int, count: int) -> NDArray[np.uint32]:
    """Return random numbers, [count, CHOICES], each a function of (seed, story, choice): SplitMix64, twice."""
    gamma = np.uint64(GAMMA)
    story = np.arange(first, first + count, dtype=np.uint64)
    key = splitmix64(splitmix64(np.array([seed % 2**64], dtype=np.uint64)) + story * gamma)
    choice = np.arange(1, CHOICES + 1, dtype=np.uint64)
    return (splitmix64(key[:, None] + choice * gamma) >> np.uint64(32)).astype(np.uint32)


def plot_text(name: str) -> str:
    """Return the text of ``plots/NAME.txt``, in the notation of grammar.py."""
    return (files(__package__ or "") / "plots" / f"{name}.txt").read_text(encoding="utf-8")


class Person(NamedTuple):
    """Character of a story: Lily, a dancer, whose elder is Mom; Rory, a fox, whose elder is Mr. Toad."""

    name: str
    being: str
    elder: str


class World(NamedTuple):
    """Words of one world, as tuples to draw from."""

    people: tuple[tuple[Person, ...], tuple[Person, ...]]
    """Characters with the pronoun he, and with the pronoun she."""
    friends_have: tuple[str, ...]
    homes: tuple[str, ...]
    treats: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    spots: tuple[str, ...]
    hand: str
    hands: str


class Library(NamedTuple):
    """All words and plots."""

    worlds: tuple[World, World]
    plots: dict[Cast, tuple[Plot, ...]]
    heroes_are: tuple[str, ...]
    days: tuple[str, ...]
    colors: tuple[str, ...]
    things: tuple[str, ...]
    containers: tuple[str, ...]


@cache
def library() -> Library:
    """Return the library, parsed at the first call."""
    parsed = parse_plots(plot_text("fragments"), *(plot_text(name) for name in PLOT_FILES))
    return Library(
        worlds=(_world("home"), _world("woods")),
        plots={cast: tuple(word_plot(plot, cast) for plot in parsed) for cast in casts()},
        heroes_are=tuple(f"{with_article(adjective)} " for adjective in words.HEROES_ARE.split()),
        days=_lines(words.DAYS),
        colors=tuple(f"{with_article(color)} " for color in words.COLORS.split()),
        things=_spaced(words.THINGS),
        containers=tuple(f"{container} " for container in words.CONTAINERS.split(", ")),
    )


def _world(name: str) -> World:
    at_home = name == "home"
    people = (words.BOYS, words.GIRLS) if at_home else (words.HE_ANIMALS, words.SHE_ANIMALS)
    places = (line.split(" | ") for line in _lines(words.PLACES[name]))
    friends_have = tuple(f" {line}" for line in _lines(words.FRIENDS_HAVE))
    return World(
        people=(_people(people[0]), _people(people[1])),
        friends_have=(*friends_have, *("",) * 5),  # "a hedgehog" alone is drawn, too
        homes=_lines(words.HOMES[name]),
        treats=_spaced(words.TREATS[name]),
        places=tuple((where, at) for where, at in places),
        spots=_lines(words.SPOTS[name]),
        hand="hand" if at_home else "paw",
        hands="hands" if at_home else "paws",
    )


def _people(entries: str) -> tuple[Person, ...]:
    """Parse ``Rory the fox and Mr. Toad, …``."""
    return tuple(Person(*re.split(" the | and ", entry)) for entry in " ".join(entries.split()).split(", "))


def _lines(block: str) -> tuple[str, ...]:
    return tuple(block.strip().split("\n"))


def _spaced(block: str) -> tuple[str, ...]:
    return tuple(entry.replace("-", " ") for entry in block.split())


def _write_story(draw: list[int]) -> str:
    return _story_with_words(draw)[0]


def _story_with_words(draw: list[int]) -> tuple[str, dict[str, str]]:
    book = library()
    cast = CASTS[draw[0] % len(CASTS)]
    plots = book.plots[cast]
    plot = plots[draw[1] % len(plots)]
    slots = _slots(book, book.worlds[cast.world == "woods"], cast, draw)
    if plot.rows:
        for slot, template in plot.rows[draw[2] % len(plot.rows)]:
            slots[slot] = template % slots
    choices = zip(plot.beats, draw[CHOICES_OF_WORDS:], strict=False)
    return "".join([beat[number % len(beat)] for beat, number in choices]) % slots, slots


def _slots(book: Library, world: World, cast: Cast, draw: list[int]) -> dict[str, str]:
    hero, friend = _two(world.people[cast.heroine], draw[3], world.people[cast.friend_is_she], draw[4])
    color, thing = book.colors[draw[7] % len(book.colors)], book.things[draw[8] % len(book.things)]
    treats = world.treats[draw[9] % len(world.treats)]
    place, at_place = world.places[draw[10] % len(world.places)]
    # Three different spots: a step is less than half of their number.
    spot, step = draw[11], 1 + draw[12] % ((len(world.spots) - 1) // 2)
    return {
        "Hero": hero.name,
        "hero": hero.being,
        "a_hero": book.heroes_are[draw[13] % len(book.heroes_are)] + hero.being,
        "home": world.homes[draw[14] % len(world.homes)],
        "Friend": friend.name,
        "a_friend": with_article(friend.being) + world.friends_have[draw[15] % len(world.friends_have)],
        "Elder": hero.elder,
        "Day": book.days[draw[16] % len(book.days)],
        "a_color": color,
        "thing": thing,
        "a_thing": color + thing,
        "treats": treats,
        "a_treats": book.containers[draw[17] % len(book.containers)] + treats,
        "place": place,
        "at_place": at_place,
        "spot": world.spots[spot % len(world.spots)],
        "spot2": world.spots[(spot + step) % len(world.spots)],
        "spot3": world.spots[(spot + 2 * step) % len(world.spots)],
        "hand": world.hand,
        "hands": world.hands,
    }


def _two(first: Sequence[Person], draw: int, second: Sequence[Person], other_draw: int) -> tuple[Person, Person]:
    """Draw one person of each list; two different ones if the lists are the same."""
    chosen, other = first[draw % len(first)], second[other_draw % len(second)]
    return chosen, other if other != chosen else second[(other_draw + 1) % len(second)]


def with_article(noun: str) -> str:
    """Return ``an owl``, ``a fox``."""
    return f"an {noun}" if noun[0] in VOWELS else f"a {noun}"
