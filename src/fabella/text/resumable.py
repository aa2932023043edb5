"""Source in chunks, from the start of any of which reading can resume.

    files         one file           storybook   1,024 stories
    hub dataset   64 streamed rows, or 1,000 downloaded ones

The cursor of a chunk is a string from which it can be read again. Chunks with random access are read in another order
each epoch; streamed rows come in the order of the dataset.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from fabella.config.data import FilesSource, HubSource, StorybookSource
from fabella.errors import TextError
from fabella.text import file_set, hub
from fabella.text.decode_policy import DecodePolicy
from fabella.text.mixture import Leaf
from fabella.text.storybook import generator
from fabella.text.tables.text_column import TextColumn, peek

CHUNK_STORIES = 1024
"""Stories of a chunk of the storybook."""
STREAMED_ROWS = 64
"""Rows of a chunk of a streamed hub dataset."""
DOWNLOADED_ROWS = 1000
"""Rows of a chunk of a downloaded hub dataset."""
RETRY_SECONDS = (1.0, 4.0, 16.0)
"""Seconds before each retry of ours, in addition to the library's own retries."""

ShuffledRange = Callable[[int], Sequence[int]]
"""n → a permutation of ``range(n)``"""


class Chunk(NamedTuple):
    """Documents read in one go; ``cursor`` is where they begin."""

    cursor: str
    texts: Iterator[str]


def iter_chunks(source: Leaf, policy: DecodePolicy, shuffled: ShuffledRange, cursor: str = "") -> Iterator[Chunk]:
    """Yield one epoch of a source from the chunk ``cursor`` on; empty means from the first. Raises TextError."""
    if isinstance(source, FilesSource):
        return _of_files(source, policy, shuffled, cursor)
    if isinstance(source, StorybookSource):
        return _of_storybook(source, policy, shuffled, cursor)
    return _of_hub(source, policy, shuffled, cursor)


def _of_files(source: FilesSource, policy: DecodePolicy, shuffled: ShuffledRange, cursor: str) -> Iterator[Chunk]:
    if source.limit:
        raise TextError(
            "data.source.limit needs the documents in one order, which a stream does not have.",
            hint="Leave out --limit, or data.mode.kind=streaming.",
        )
    files = file_set.open_file_set(source)
    return _in_order(len(files.paths), lambda n: files.documents(files.paths[n], policy), shuffled, cursor)


def _of_storybook(
    source: StorybookSource, policy: DecodePolicy, shuffled: ShuffledRange, cursor: str
) -> Iterator[Chunk]:
    def read(number: int) -> Iterator[str]:
        first = number * CHUNK_STORIES
        for story in generator.stories(min(CHUNK_STORIES, source.stories - first), seed=source.seed, start=first):
            policy.notes.documents += 1
            yield story

    return _in_order(-(-source.stories // CHUNK_STORIES), read, shuffled, cursor)


def _in_order(
    count: int, read: Callable[[int], Iterator[str]], shuffled: ShuffledRange, cursor: str
) -> Iterator[Chunk]:
    """Yield chunks with random access; a cursor is the number of chunks before it."""
    order = shuffled(count)
    for position in range(int(cursor or 0), count):
        yield Chunk(str(position), read(order[position]))


# ---------------------------------------------------------------- the hub


def _of_hub(source: HubSource, policy: DecodePolicy, shuffled: ShuffledRange, cursor: str) -> Iterator[Chunk]:
    if source.streaming:
        return _streamed(source, policy, cursor)
    return _downloaded(source, policy, shuffled, cursor)


def _downloaded(source: HubSource, policy: DecodePolicy, shuffled: ShuffledRange, cursor: str) -> Iterator[Chunk]:
    with hub.hub_errors(source) as datasets:
        rows, column = _one_column(hub.load(datasets, source), source, policy)

        def read(number: int) -> Iterator[str]:
            first = number * DOWNLOADED_ROWS
            part = rows.select(range(first, min(first + DOWNLOADED_ROWS, len(rows))))
            assert column is not None, "there are rows"
            return hub.texts_of(part, column, source, policy, first=first + 1)

        if column:
            yield from _in_order(-(-len(rows) // DOWNLOADED_ROWS), read, shuffled, cursor)


def _streamed(source: HubSource, policy: DecodePolicy, cursor: str) -> Iterator[Chunk]:
    """Yield streamed rows. A broken connection is retried a few times from the row where it broke."""
    rows: _Rows | None = None
    failed = 0
    while True:
        try:
            rows = rows or _Rows(source, cursor, policy)
            chunk = rows.take()
        except TextError as error:
            if failed == len(RETRY_SECONDS) or not hub.is_transient(error):
                raise
            time.sleep(RETRY_SECONDS[failed])
            rows, failed = None, failed + 1
            continue
        failed = 0
        if not chunk or rows.column is None:
            return
        yield Chunk(cursor, hub.texts_of(chunk, rows.column, source, policy, first=rows.first))
        cursor = rows.cursor


class _Rows:
    """Streamed rows from a cursor on: the number of rows before it, and the state of the library."""

    def __init__(self, source: HubSource, cursor: str, policy: DecodePolicy) -> None:
        start: dict[str, Any] = json.loads(cursor) if cursor else {"row": 0}
        with hub.hub_errors(source) as datasets:
            self._rows, self.column = _one_column(hub.load(datasets, source), source, policy)
            if cursor:
                self._rows.load_state_dict(start["state"])
            self._stream = iter(self._rows)
        self._source, self._row, self.cursor = source, int(start["row"]), cursor

    def take(self) -> list[Mapping[str, Any]]:
        """Return the next rows, none at the end; set ``first``, the number of the first one, and ``cursor``."""
        self.first = self._row + 1
        with hub.hub_errors(self._source):
            chunk = list(islice(self._stream, STREAMED_ROWS)) if self.column else []
            self._row += len(chunk)
            self.cursor = json.dumps({"row": self._row, "state": self._rows.state_dict()})
        return chunk


def _one_column(rows: Any, source: HubSource, policy: DecodePolicy) -> tuple[Any, TextColumn | None]:
    """Return the rows with only the columns that are read, and where their text is; None for no rows."""
    first, _ = peek(iter(rows))
    if not first:
        return rows, None
    column = hub.column_of(source, first, policy)
    return rows.select_columns(list(column.columns)), column
