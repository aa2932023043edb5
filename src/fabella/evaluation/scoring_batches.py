"""Documents to be scored, and the windows in which a model reads them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.data.dataset import Split
from fabella.generation.likelihood import window_starts
from fabella.models import IGNORE
from fabella.tokenizers.tokenizer import Tokenizer

SORTED_TOGETHER = 2048
"""Documents whose windows are put in order of length before they are read, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Document:
    """Ids with the end behind them, [T], and the bytes of UTF-8 that they stand for."""

    ids: NDArray[np.int32]
    bytes: int


@dataclass(frozen=True, slots=True)
class ScoringBatch:
    """Windows that are read at once; row i is of document ``documents[i]``, counted from 0."""

    batch: Batch
    documents: NDArray[np.int64]


def held_out(split: Split) -> Iterator[Document]:
    """Every document of prepared text, in its order."""
    for number in range(split.documents):
        start, stop = split.offsets[number : number + 2]
        yield Document(split.read(int(start), int(stop)).astype(np.int32), int(split.document_bytes[number]))


def of_texts(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[Document]:
    """Documents of text that was not prepared."""
    remaining = iter(texts)
    while part := list(islice(remaining, SORTED_TOGETHER)):
        for text, ids in zip(part, tokenizer.encode_many(part), strict=True):
            yield Document(np.append(ids, tokenizer.eos_id).astype(np.int32), len(text.encode()))


def rows(documents: Iterable[Document], *, context: int, end: int, tokens: int) -> Iterator[ScoringBatch]:
    """Each document from its beginning, after ``end`` as in training, every id predicted once, its end among them.

    One longer than ``context`` is read in windows that overlap by half. At most ``tokens`` at once, or one window.
    """
    first = 0
    remaining = iter(documents)
    while part := list(islice(remaining, SORTED_TOGETHER)):
        windows = [
            (width, first + number, start, done)
            for number, document in enumerate(part)
            for width, start, done in _windows(len(document.ids), context)
        ]
        windows.sort(key=lambda window: window[0])
        for together in _together(windows, tokens):
            yield _rows(together, part, first, end)
        first += len(part)


def _windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Width and beginning of each window, and how many of its predictions an earlier one has made."""
    width, done = min(context, length), 0
    for start in window_starts(length, context).tolist():
        yield width, start, done - start
        done = start + width


def _together(windows: list[tuple[int, int, int, int]], tokens: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Windows, shortest first, in groups that hold at most ``tokens`` with their padding."""
    group: list[tuple[int, int, int, int]] = []
    for window in windows:
        if group and (len(group) + 1) * window[0] > tokens:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _rows(windows: list[tuple[int, int, int, int]], part: list[Document], first: int, end: int) -> ScoringBatch:
    widest = windows[-1][0]
    tokens = np.full((len(windows), widest), end, np.int32)
    targets = np.full((len(windows), widest), IGNORE, np.int32)
    for row, (width, number, start, done) in enumerate(windows):
        ids = part[number - first].ids
        tokens[row, int(start == 0) : width] = ids[max(start - 1, 0) : start + width - 1]
        targets[row, done:width] = ids[start + done : start + width]
    return ScoringBatch(Batch(tokens, targets), np.array([number for _, number, _, _ in windows]))
