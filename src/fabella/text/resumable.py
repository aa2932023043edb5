"""A source in portions that can be read from the beginning of any of them: what going on in the middle is built on.

    files      a file                 the built-in storybook   1,024 stories
    hub data   64 streamed rows, or 1,000 downloaded ones

A portion has a mark, a word from which reading it can begin again. What can be reached in any order is read in another
one each epoch; rows that are streamed come as the data set has them.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from fabella.config.data import FilesSource, HubSource, MixtureSource, Source, StorybookSource
from fabella.errors import TextError
from fabella.text import file_set, hub
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.text_column import detect_text_column, peek
from fabella.text.storybook import generator

STORIES = 1024
STREAMED_ROWS = 64
DOWNLOADED_ROWS = 1000
# Beside the library's own attempts: seconds waited before each of ours.
WAITS = (1.0, 4.0, 16.0)

Leaf = FilesSource | HubSource | StorybookSource
Shuffled = Callable[[int], Sequence[int]]
"""n → an order of ``range(n)``"""


class Chunk(NamedTuple):
    """Documents that are read in one go; ``mark`` is where they begin."""

    cursor: str
    texts: Iterator[str]


def flatten_mixture(source: Source, weight: float = 1.0) -> list[tuple[float, Leaf]]:
    """Each source in a mixture, and in mixtures within it, with its share of the documents; they add up to 1."""
    if not isinstance(source, MixtureSource):
        return [(weight, source)]
    total = sum(part.weight for part in source.parts)
    return [leaf for part in source.parts for leaf in flatten_mixture(part.source, weight * part.weight / total)]


def iter_chunks(source: Leaf, reading: DecodePolicy, shuffled: Shuffled, cursor: str = "") -> Iterator[Chunk]:
    """One epoch of a source, from the portion ``mark`` on; empty: from its first. Raises TextError, as reading does."""
    if isinstance(source, FilesSource):
        return _of_files(source, reading, shuffled, cursor)
    if isinstance(source, StorybookSource):
        return _of_storybook(source, reading, shuffled, cursor)
    return _of_hub(source, reading, shuffled, cursor)


def _of_files(source: FilesSource, reading: DecodePolicy, shuffled: Shuffled, cursor: str) -> Iterator[Chunk]:
    shelf = file_set.open_file_set(source)
    return _in_order(len(shelf.paths), lambda n: shelf.documents(shelf.paths[n], reading), shuffled, cursor)


def _of_storybook(source: StorybookSource, reading: DecodePolicy, shuffled: Shuffled, cursor: str) -> Iterator[Chunk]:
    def read(number: int) -> Iterator[str]:
        first = number * STORIES
        for story in generator.stories(min(STORIES, source.stories - first), seed=source.seed, start=first):
            reading.notes.documents += 1
            yield story

    return _in_order(-(-source.stories // STORIES), read, shuffled, cursor)


def _in_order(count: int, read: Callable[[int], Iterator[str]], shuffled: Shuffled, cursor: str) -> Iterator[Chunk]:
    """Portions that can be reached in any order; a mark is how many come before."""
    order = shuffled(count)
    for place in range(int(cursor or 0), count):
        yield Chunk(str(place), read(order[place]))


# ---------------------------------------------------------------- the hub


def _of_hub(source: HubSource, reading: DecodePolicy, shuffled: Shuffled, cursor: str) -> Iterator[Chunk]:
    if source.streaming:
        return _streamed(source, reading, cursor)
    return _downloaded(source, reading, shuffled, cursor)


def _downloaded(source: HubSource, reading: DecodePolicy, shuffled: Shuffled, cursor: str) -> Iterator[Chunk]:
    with hub.hub_errors(source) as datasets:
        rows, column = _one_column(hub.load(datasets, source), source)

        def read(number: int) -> Iterator[str]:
            first = number * DOWNLOADED_ROWS
            part = rows.select(range(first, min(first + DOWNLOADED_ROWS, len(rows))))
            return hub.texts_of(part, column, source, reading, first=first + 1)

        if column:
            yield from _in_order(-(-len(rows) // DOWNLOADED_ROWS), read, shuffled, cursor)


def _streamed(source: HubSource, reading: DecodePolicy, cursor: str) -> Iterator[Chunk]:
    """Rows as they come. Where the connection breaks, it is made anew a few times, from where it broke."""
    rows: _Rows | None = None
    failed = 0
    while True:
        try:
            rows = rows or _Rows(source, cursor)
            taken = rows.take()
        except TextError as error:
            if failed == len(WAITS) or not hub.is_transient(error):
                raise
            time.sleep(WAITS[failed])
            rows, failed = None, failed + 1
            continue
        failed = 0
        if not taken:
            return
        yield Chunk(cursor, hub.texts_of(taken, rows.column, source, reading, first=rows.first))
        cursor = rows.cursor


class _Rows:
    """Streamed rows from a mark on: the number of rows before it, and the library's own state."""

    def __init__(self, source: HubSource, cursor: str) -> None:
        begin: dict[str, Any] = json.loads(cursor) if cursor else {"row": 0}
        with hub.hub_errors(source) as datasets:
            self._rows, self.column = _one_column(hub.load(datasets, source), source)
            if cursor:
                self._rows.load_state_dict(begin["state"])
            self._stream = iter(self._rows)
        self._source, self._row, self.cursor = source, int(begin["row"]), cursor

    def take(self) -> list[Mapping[str, Any]]:
        """The next rows, none at the end; ``first`` is then the number of the first, ``mark`` what comes after."""
        self.first = self._row + 1
        with hub.hub_errors(self._source):
            taken = list(islice(self._stream, STREAMED_ROWS)) if self.column else []
            self._row += len(taken)
            self.cursor = json.dumps({"row": self._row, "state": self._rows.state_dict()})
        return taken


def _one_column(rows: Any, source: HubSource) -> tuple[Any, str]:
    """The rows with the column of text alone, and its name; none for a data set without rows."""
    first, _ = peek(iter(rows))
    if not first:
        return rows, ""
    column = detect_text_column(source.column, first, source.name)
    return rows.select_columns([column]), column
