"""Batches for scoring documents: each document is cut into windows, and windows of similar length share a batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.data.dataset import Split
from fabella.generation.likelihood import sequence_starts
from fabella.models import IGNORE
from fabella.tokenizers.chat.encode import DocumentEncoder
from fabella.tokenizers.tokenizer import Tokenizer

WindowT = TypeVar("WindowT")

SORTED_DOCUMENTS = 2048
"""Number of documents whose windows are sorted by length at once, to keep padding small."""


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids with the final EOS id and without a BOS id, [T], and the size of the scored text in UTF-8 bytes."""

    ids: NDArray[np.int32]
    bytes: int
    learned: NDArray[np.bool_] | None = None
    """Which ids are scored; None for all."""

    @property
    def num_scored(self) -> int:
        """Number of ids that are scored."""
        return len(self.ids) if self.learned is None else int(self.learned.sum())


@dataclass(frozen=True, slots=True)
class ScoringBatch:
    """Windows of one forward pass; row i belongs to document ``documents[i]``, counted from 0."""

    batch: Batch
    documents: NDArray[np.int64]


def held_out(split: Split, tokenizer: Tokenizer) -> Iterator[Document]:
    """Yield every document of a split, in order; with a loss mask, those that have a learned id."""
    skipped = 0 if tokenizer.bos_id is None else 1
    for number in range(split.documents):
        start, stop = (int(offset) for offset in split.offsets[number : number + 2])
        ids = split.read(start + skipped, stop).astype(np.int32)
        if split.loss_mask is None:
            yield Document(ids, int(split.document_bytes[number]))
            continue
        learned = split.loss_mask.read(start + skipped, stop).astype(np.bool_)
        if learned.any():
            yield Document(ids, sum(len(tokenizer.token_bytes(token)) for token in ids[learned].tolist()), learned)


def of_texts(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[Document]:
    """Tokenize texts, which may have the marks of a chat template, into documents."""
    remaining, encoder = iter(texts), DocumentEncoder(tokenizer)
    skipped = 0 if tokenizer.bos_id is None else 1
    while part := list(islice(remaining, SORTED_DOCUMENTS)):
        for document in encoder.encode(part):
            yield Document(document.ids[skipped:], len(document.text))


def batches(documents: Iterable[Document], *, context: int, eos_id: int, tokens: int) -> Iterator[ScoringBatch]:
    """Yield batches in which every id of every document, with its final EOS, is a target exactly once.

    A document starts after ``eos_id``, as in training. One longer than ``context`` is read in windows that overlap by
    half. A batch has at most ``tokens`` tokens with padding, or one window.
    """
    first = 0
    remaining = iter(documents)
    while part := list(islice(remaining, SORTED_DOCUMENTS)):
        windows = [
            (width, first + number, start, done)
            for number, document in enumerate(part)
            for width, start, done in _windows(len(document.ids), context)
        ]
        windows.sort(key=lambda window: window[0])
        for group in group_by_tokens(windows, lambda window: window[0], tokens):
            yield _batch(group, part, first, eos_id)
        first += len(part)


def group_by_tokens(
    windows: Iterable[WindowT], length: Callable[[WindowT], int], tokens: int
) -> Iterator[list[WindowT]]:
    """Group windows, shortest first, so that a padded group has at most ``tokens`` tokens, or one window."""
    group: list[WindowT] = []
    for window in windows:
        if group and (len(group) + 1) * length(window) > tokens:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Yield width and start of each window, and how many of its targets an earlier window has."""
    width, done = min(context, length), 0
    for start in sequence_starts(length, context).tolist():
        yield width, start, done - start
        done = start + width


def _batch(
    windows: Sequence[tuple[int, int, int, int]], part: Sequence[Document], first: int, eos_id: int
) -> ScoringBatch:
    width = windows[-1][0]
    tokens = np.full((len(windows), width), eos_id, np.int32)
    targets = np.full((len(windows), width), IGNORE, np.int32)
    for row, (size, number, start, done) in enumerate(windows):
        ids, learned = part[number - first].ids, part[number - first].learned
        tokens[row, int(start == 0) : size] = ids[max(start - 1, 0) : start + size - 1]
        scored = slice(start + done, start + size)
        targets[row, done:size] = ids[scored] if learned is None else np.where(learned[scored], ids[scored], IGNORE)
    return ScoringBatch(Batch(tokens, targets), np.array([number for _, number, _, _ in windows]))
