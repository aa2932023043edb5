"""Notation of the storybook's plots (plots/*.txt), parsed into tuples of %-templates.

    = name      begins a plot; a blank line separates its beats, of which one variant each is drawn
    - text      a variant; ``3-`` is three times as likely, ``home-`` and ``woods-`` belong to one world;
                an indented line continues it
    ~           the variant that is empty
    ¶           begins a paragraph
    > name      inserts a beat of fragments.txt
    @ a | b     begins a table, of which one row fills the slots a and b for the whole story

``{he} {He} {him} {his} {His} {himself}`` are the hero's, ``{f.he} …`` the friend's; they are filled in when a plot is
parsed, once for every pair of pronouns. All other ``{slots}`` are filled for each story.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

HE = {"he": "he", "He": "He", "him": "him", "his": "his", "His": "His", "himself": "himself"}
SHE = {"he": "she", "He": "She", "him": "her", "his": "her", "His": "Her", "himself": "herself"}

SLOT = re.compile(r"\{(\w+)\}")
VARIANT = re.compile(r"(\d*)(home|woods)?- (.+)", re.DOTALL)

EMPTY_VARIANT = "~"
"""The empty variant."""

Row = tuple[tuple[str, str], ...]


class Cast(NamedTuple):
    """World and pronouns that a plot is worded for: everything that does not depend on slots."""

    world: str
    heroine: bool
    friend_is_she: bool


class Plot(NamedTuple):
    """Plot worded for one cast, as %-templates."""

    beats: tuple[tuple[str, ...], ...]
    """Variants of each beat, of which one is drawn; the white space before a beat is part of its variants."""
    rows: tuple[Row, ...]
    """Rows of (slot, template), of which one is drawn for the whole story; empty without a table."""


class Beat(NamedTuple):
    """One step of a plot: variants of which one is drawn."""

    new_paragraph: bool
    variants: tuple[tuple[str, str], ...]
    """(world or "", text), repeated according to their weight."""


class ParsedPlot(NamedTuple):
    """Plot as parsed, before it is worded for a cast."""

    name: str
    beats: tuple[Beat, ...]
    rows: tuple[Row, ...]


def casts() -> Iterator[Cast]:
    """Yield every cast: at home or in the woods, each of the two a he or a she."""
    return (Cast(*cast) for cast in product(("home", "woods"), (False, True), (False, True)))


def parse_plots(fragments: str, *parts: str) -> list[ParsedPlot]:
    """Parse every plot of ``parts`` in order; ``fragments`` are beats that plots insert by name."""
    known = {name: _parse(name, body, {}).beats for name, body in _chapters(fragments)}
    return [_parse(name, body, known) for part in parts for name, body in _chapters(part)]


def word_plot(plot: ParsedPlot, cast: Cast) -> Plot:
    """Word ``plot`` for one cast: fill in its pronouns, select its world, and turn slots into ``%(slot)s``."""
    pronouns = SHE if cast.heroine else HE
    of_friend = {f"f.{key}": value for key, value in (SHE if cast.friend_is_she else HE).items()}

    def template(text: str) -> str:
        for key, value in (pronouns | of_friend).items():
            text = text.replace(f"{{{key}}}", value)
        return SLOT.sub(r"%(\1)s", text.replace("%", "%%"))

    def variants(beat: Beat, gap: str) -> Iterator[str]:
        for world, text in beat.variants:
            if world in ("", cast.world):
                yield "" if text == EMPTY_VARIANT else gap + template(text)

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


def _parse(name: str, body: str, fragments: dict[str, tuple[Beat, ...]]) -> ParsedPlot:
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
    return ParsedPlot(name, tuple(beats), rows)


def _rows(entries: list[str]) -> tuple[Row, ...]:
    names, *rows = ([cell.strip() for cell in entry.removeprefix("@ ").split("|")] for entry in entries)
    return tuple(tuple(zip(names, row, strict=True)) for row in rows)


def _variants(entry: str) -> list[tuple[str, str]]:
    match = VARIANT.fullmatch(entry)
    assert match, f"not a variant: {entry!r}"
    times, world, text = match.groups()
    return [(world or "", text)] * int(times or 1)
