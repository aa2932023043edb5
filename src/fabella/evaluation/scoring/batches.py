"""Batches for scoring documents, by each of the rules of ``fabella.config.scoring``.

``story``: each document is cut into windows, and windows of similar length share a batch. ``line``: the documents are
concatenated and cut into sequences of equal length, as packed sequences of a training are.
"""

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
    """Windows of one forward pass."""

    batch: Batch
    documents: NDArray[np.int64]
    """The document of each target, counted from 0: [B T], or [B 1] where a row has one document."""


def held_out(split: Split, tokenizer: Tokenizer, *, packed: bool = False) -> Iterator[Document]:
    """Yield every document of a split, in order; with a loss mask, those that have a learned id.

    ``packed``: with what packed sequences contain as well, the BOS ids and the documents of which nothing is learned.
    """
    skipped = 0 if packed or tokenizer.bos_id is None else 1
    for number in range(split.documents):
        start, stop = (int(offset) for offset in split.offsets[number : number + 2])
        ids = split.read(start + skipped, stop).astype(np.int32)
        if split.loss_mask is None:
            yield Document(ids, int(split.document_bytes[number]))
            continue
        learned = split.loss_mask.read(start + skipped, stop).astype(np.bool_)
        if packed or learned.any():
            yield Document(ids, sum(len(tokenizer.token_bytes(token)) for token in ids[learned].tolist()), learned)


def of_texts(texts: Iterable[str], tokenizer: Tokenizer, *, packed: bool = False) -> Iterator[Document]:
    """Tokenize texts, which may have the marks of a chat template, into documents; ``packed``: with their BOS ids."""
    remaining, encoder = iter(texts), DocumentEncoder(tokenizer)
    skipped = 0 if packed or tokenizer.bos_id is None else 1
    while part := list(islice(remaining, SORTED_DOCUMENTS)):
        for document in encoder.encode(part):
            yield Document(document.ids[skipped:], len(document.text))


def line_batches(documents: Iterable[Document], *, length: int, tokens: int) -> Iterator[ScoringBatch]:
    """Yield batches of packed sequences of ``length`` tokens; every id after the first is a target at most once.

    The documents have their BOS ids (``packed``). A rest shorter than a sequence is left out, as in a training. A batch
    has at most ``tokens`` tokens, or one sequence.
    """
    size = max(1, tokens // length) * length
    waiting: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]] = []
    count = 0
    for number, document in enumerate(documents):
        ids, learned = document.ids, document.learned
        targets = ids if learned is None else np.where(learned, ids, IGNORE).astype(np.int32)
        waiting.append((ids, targets, np.full(len(ids), number)))
        count += len(ids)
        if count <= size:
            continue
        ids, targets, numbers = (np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
        used = (count - 1) // size * size
        for start in range(0, used, size):
            yield _line_batch(ids, targets, numbers, start, start + size, length)
        waiting, count = [(ids[used:], targets[used:], numbers[used:])], count - used
    used = max(count - 1, 0) // length * length
    if used:
        ids, targets, numbers = (np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
        yield _line_batch(ids, targets, numbers, 0, used, length)


def _line_batch(
    ids: NDArray[np.int32],
    targets: NDArray[np.int32],
    numbers: NDArray[np.int64],
    start: int,
    stop: int,
    length: int,
) -> ScoringBatch:
    """Return the sequences that predict the ids after ``start`` up to ``stop``."""
    batch = Batch(ids[start:stop].reshape(-1, length), targets[start + 1 : stop + 1].reshape(-1, length))
    return ScoringBatch(batch, numbers[start + 1 : stop + 1].reshape(-1, length))


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
    return ScoringBatch(Batch(tokens, targets), np.array([[number] for _, number, _, _ in windows]))
