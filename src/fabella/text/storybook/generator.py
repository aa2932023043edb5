"""The storybook: as many tiny stories as you like, each of 60 to 200 words, with a beginning, a middle and an end.

A story is a plot (somebody wants something, something goes wrong, somebody helps, all is well) told in one of
two worlds, with a hero, a friend, an elder, a thing and some places that stay the same to its end. Of every
beat of the plot one variant is told. The words are in ``storybook_words``, the plots in ``storybook_plots_…``,
their notation in ``storybook_grammar``. In the spirit of TinyStories (Eldan & Li 2023, arXiv 2305.07759).
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fabella.text.storybook import words as words
from fabella.text.storybook.grammar import Cast, Plot, casts, read, word
from fabella.text.storybook.plots_friends import FRAGMENTS, FRIENDS
from fabella.text.storybook.plots_growing import GROWING_UP
from fabella.text.storybook.plots_wonders import WONDERS

CHOICES = 40
"""numbers drawn for a story: those for its words, below, and one for each beat of its plot"""
CHOICES_OF_WORDS = 20
CASTS = tuple(casts())
AT_ONCE = 1024
"""stories drawn for in one stroke"""

GAMMA = np.uint64(0x9E3779B97F4A7C15)
VOWELS = "aeiou"


def stories(count: int, *, seed: int, start: int = 0) -> Iterator[str]:
    """Stories ``start`` … ``start + count - 1`` of ``seed``. Story ``i`` is the same whichever others are told."""
    for first in range(start, start + count, AT_ONCE):
        drawn = draws(seed, first, min(AT_ONCE, start + count - first))
        yield from map(_tell, drawn.tolist())


def draws(seed: int, first: int, count: int) -> NDArray[np.uint32]:
    """[count CHOICES] numbers that look random, from (seed, story, choice) alone: SplitMix64, twice."""
    story = np.arange(first, first + count, dtype=np.uint64)
    key = _mixed(_mixed(np.array([seed % 2**64], dtype=np.uint64)) + story * GAMMA)
    choice = np.arange(1, CHOICES + 1, dtype=np.uint64)
    return (_mixed(key[:, None] + choice * GAMMA) >> np.uint64(32)).astype(np.uint32)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014); a bijection of 64-bit numbers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Person(NamedTuple):
    """Somebody a story can be about: Lily, a dancer, who goes to Mom for advice; Rory, a fox, who goes to Mr. Toad."""

    name: str
    being: str
    elder: str


class World(NamedTuple):
    """The words of one world, ready to be drawn from."""

    people: tuple[tuple[Person, ...], tuple[Person, ...]]
    """those who are he, those who are she"""
    friends_have: tuple[str, ...]
    homes: tuple[str, ...]
    treats: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    spots: tuple[str, ...]
    hand: str
    hands: str


class Library(NamedTuple):
    """Everything a story is told from."""

    worlds: tuple[World, World]
    plots: dict[Cast, tuple[Plot, ...]]
    heroes_are: tuple[str, ...]
    days: tuple[str, ...]
    colors: tuple[str, ...]
    things: tuple[str, ...]
    containers: tuple[str, ...]


@cache
def library() -> Library:
    """Read once, at the first story."""
    written = read(FRAGMENTS, FRIENDS, GROWING_UP, WONDERS)
    return Library(
        worlds=(_world("home"), _world("woods")),
        plots={cast: tuple(word(plot, cast) for plot in written) for cast in casts()},
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
        friends_have=(*friends_have, *("",) * 5),  # "a hedgehog" says enough, too
        homes=_lines(words.HOMES[name]),
        treats=_spaced(words.TREATS[name]),
        places=tuple((where, at) for where, at in places),
        spots=_lines(words.SPOTS[name]),
        hand="hand" if at_home else "paw",
        hands="hands" if at_home else "paws",
    )


def _people(entries: str) -> tuple[Person, ...]:
    """``Rory the fox and Mr. Toad, …``"""
    return tuple(Person(*re.split(" the | and ", entry)) for entry in " ".join(entries.split()).split(", "))


def _lines(block: str) -> tuple[str, ...]:
    return tuple(block.strip().split("\n"))


def _spaced(block: str) -> tuple[str, ...]:
    return tuple(entry.replace("-", " ") for entry in block.split())


def _tell(draw: list[int]) -> str:
    book = library()
    cast = CASTS[draw[0] % len(CASTS)]
    plots = book.plots[cast]
    plot = plots[draw[1] % len(plots)]
    slots = _slots(book, book.worlds[cast.world == "woods"], cast, draw)
    if plot.rows:
        for slot, template in plot.rows[draw[2] % len(plot.rows)]:
            slots[slot] = template % slots
    choices = zip(plot.beats, draw[CHOICES_OF_WORDS:], strict=False)
    return "".join([beat[number % len(beat)] for beat, number in choices]) % slots


def _slots(book: Library, world: World, cast: Cast, draw: list[int]) -> dict[str, str]:
    hero, friend = _two(world.people[cast.heroine], draw[3], world.people[cast.friend_is_she], draw[4])
    color, thing = book.colors[draw[7] % len(book.colors)], book.things[draw[8] % len(book.things)]
    treats = world.treats[draw[9] % len(world.treats)]
    place, at_place = world.places[draw[10] % len(world.places)]
    # Three different ones: no step is half a round.
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
    """One of each list, and not the same one where both are one list."""
    chosen, other = first[draw % len(first)], second[other_draw % len(second)]
    return chosen, other if other != chosen else second[(other_draw + 1) % len(second)]


def with_article(noun: str) -> str:
    """``an owl``, ``a fox``"""
    return f"an {noun}" if noun[0] in VOWELS else f"a {noun}"
