"""The storybook's notation: plots written as blocks of text, read once into tuples that are quick to tell from.

``{he} {He} {him} {his} {His} {himself}`` are the hero's, ``{f.he} …`` the friend's; they are settled when a plot is
read, once for every pair of heroine or hero and friend. All other ``{slots}`` are filled for each story.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

HE = {"he": "he", "He": "He", "him": "him", "his": "his", "His": "His", "himself": "himself"}
SHE = {"he": "she", "He": "She", "him": "her", "his": "her", "His": "Her", "himself": "herself"}

SLOT = re.compile(r"\{(\w+)\}")
VARIANT = re.compile(r"(\d*)(home|woods)?- (.+)", re.DOTALL)

NOTHING = "~"
"""the variant that tells nothing"""

Row = tuple[tuple[str, str], ...]


class Cast(NamedTuple):
    """For whom a plot is worded: everything in it that depends on more than slots."""

    world: str
    heroine: bool
    friend_is_she: bool


class Plot(NamedTuple):
    """A plot worded for one cast, as %-templates."""

    beats: tuple[tuple[str, ...], ...]
    """of each beat one variant is told; white space between beats stands at their beginning"""
    rows: tuple[Row, ...]
    """one of these (slot, template) lists is drawn for the whole story; empty where the plot has no table"""


class Beat(NamedTuple):
    new_paragraph: bool
    variants: tuple[tuple[str, str], ...]
    """(world or "", text), as often as they are likely"""


class Written(NamedTuple):
    """A plot as it is written, before it is worded."""

    name: str
    beats: tuple[Beat, ...]
    rows: tuple[Row, ...]


def casts() -> Iterator[Cast]:
    """Every cast a story can have: at home or in the woods, each of the two a he or a she."""
    return (Cast(*cast) for cast in product(("home", "woods"), (False, True), (False, True)))


def read(fragments: str, *parts: str) -> list[Written]:
    """Every plot of ``parts``, in order."""
    borrowed = {name: _written(name, body, {}).beats for name, body in _chapters(fragments)}
    return [_written(name, body, borrowed) for part in parts for name, body in _chapters(part)]


def word(plot: Written, cast: Cast) -> Plot:
    """``plot`` for one cast: pronouns and world settled, slots made ``%(slot)s``."""
    pronouns = SHE if cast.heroine else HE
    of_friend = {f"f.{key}": value for key, value in (SHE if cast.friend_is_she else HE).items()}

    def template(text: str) -> str:
        for key, value in (pronouns | of_friend).items():
            text = text.replace(f"{{{key}}}", value)
        return SLOT.sub(r"%(\1)s", text.replace("%", "%%"))

    def variants(beat: Beat, gap: str) -> Iterator[str]:
        for world, text in beat.variants:
            if world in ("", cast.world):
                yield "" if text == NOTHING else gap + template(text)

    beats = tuple(tuple(variants(beat, _gap(beat, number))) for number, beat in enumerate(plot.beats))
    return Plot(beats, tuple(tuple((slot, template(text)) for slot, text in row) for row in plot.rows))


def _gap(beat: Beat, number: int) -> str:
    if number == 0:
        return ""
    return "\n\n" if beat.new_paragraph else " "


def _chapters(text: str) -> Iterator[tuple[str, str]]:
    for chapter in re.split(r"^= ", text, flags=re.MULTILINE)[1:]:
        name, _, body = chapter.partition("\n")
        yield name, body


def _written(name: str, body: str, fragments: dict[str, tuple[Beat, ...]]) -> Written:
    beats: list[Beat] = []
    rows: tuple[Row, ...] = ()
    for block in body.strip().split("\n\n"):
        entries = re.sub(r"\n +", " ", block).split("\n")
        new_paragraph = entries[0] == "¶"
        entries = entries[new_paragraph:]
        if entries[0].startswith("@ "):
            rows = _rows(entries)
        elif entries[0].startswith("> "):
            (beat,) = fragments[entries[0][2:]]
            beats.append(beat._replace(new_paragraph=new_paragraph))
        else:
            beats.append(Beat(new_paragraph, tuple(variant for entry in entries for variant in _variants(entry))))
    return Written(name, tuple(beats), rows)


def _rows(entries: list[str]) -> tuple[Row, ...]:
    names, *rows = ([cell.strip() for cell in entry.removeprefix("@ ").split("|")] for entry in entries)
    return tuple(tuple(zip(names, row, strict=True)) for row in rows)


def _variants(entry: str) -> list[tuple[str, str]]:
    match = VARIANT.fullmatch(entry)
    assert match, f"no variant: {entry!r}"
    times, world, text = match.groups()
    return [(world or "", text)] * int(times or 1)
