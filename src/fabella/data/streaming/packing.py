"""Sequences cut from a stream of documents, as sequences.py cuts them from a dataset on disk, and their batches."""

import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.data.dataset import TokenIds
from fabella.data.sequences import first_id, packed_batch
from fabella.data.streaming.shuffle_buffer import ResumableStream, State
from fabella.errors import TextError
from fabella.models import IGNORE

SignedIds = NDArray[np.integer[Any]]
"""Ids as unsigned integers, all learned; or as int32, of which negative ones, all bits inverted, are not learned"""
MAX_SKIPPED = 100_000
"""Sequences without a learned target, one after the other, after which the text is refused."""


class SequencePacker(ResumableStream[SignedIds], Protocol):
    """Stream of sequences."""

    def next_item(self) -> SignedIds:
        """Return the next sequence."""
        ...

    def batch(self, sequences: Sequence[SignedIds], stream: str) -> Batch:
        """Return the batch of some of its sequences; ``stream`` is the state of the stream after them."""
        ...


def packer(
    documents: ResumableStream[SignedIds],
    config: Packed | Padded,
    eos_id: int,
    dtype: "np.dtype[Any]",
    bos_id: int | None = None,
) -> SequencePacker:
    """Return the sequences that ``config`` describes, those with a learned target; ``eos_id`` also pads.

    ``bos_id``: the id that starts each document.
    """
    return (
        PackDocuments(documents, config, dtype, first_id(config, eos_id, bos_id))
        if isinstance(config, Packed)
        else PadDocuments(documents, config.length, eos_id, bos_id)
    )


def signed(ids: TokenIds, loss_mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return ids of which those that are not learned have all bits inverted, so that they are negative."""
    return np.where(loss_mask, ids.astype(np.int32), ~ids.astype(np.int32))


def _ids(values: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(values < 0, ~values, values)


class _LearnedFilter:
    """Count of the sequences without a learned target that follow each other."""

    def __init__(self) -> None:
        self._skipped = 0

    def keeps(self, targets: SignedIds) -> bool:
        """Return whether a sequence has a learned target. Raises TextError after many without one."""
        if targets.dtype.kind == "u" or (targets >= 0).any():
            self._skipped = 0
            return True
        self._skipped += 1
        if self._skipped >= MAX_SKIPPED:
            raise TextError(
                f"{self._skipped:,} sequences after each other have no token of an answer (data.loss_on = answers).",
                hint="Use text with answers, or data.loss_on=all.",
            )
        return False


class PackDocuments:
    """Concatenate documents and cut sequences of ``length + 1`` ids, one every ``stride`` ids.

    ``first_id``: the id at which documents start; None leaves them unmasked.
    """

    def __init__(
        self,
        documents: ResumableStream[SignedIds],
        config: Packed,
        dtype: "np.dtype[Any]",
        first_id: int | None = None,
    ) -> None:
        self._documents, self._length, self._stride = documents, config.length, config.stride
        self._first_id = first_id
        self._rest: SignedIds = np.empty(0, dtype=dtype)
        self._learned = _LearnedFilter()
        self._begin()

    def _begin(self) -> None:
        """Start with the next document; ``_rest`` is left from earlier ones, too short for a sequence."""
        self._source, self._ids, self._count = self._documents.state(), self._rest, 0

    def next_item(self) -> SignedIds:
        """Return the next sequence with a learned target, [length + 1]."""
        while not self._learned.keeps((sequence := self._next())[1:]):
            pass
        return sequence

    def _next(self) -> SignedIds:
        while (start := self._count * self._stride) + self._length + 1 > len(self._ids):
            self._rest = self._ids[start:].copy()
            self._begin()
            self._append_document()
        self._count += 1
        return self._ids[start : start + self._length + 1].copy()

    def _append_document(self) -> None:
        document = self._documents.next_item()
        assert document is not None, "the documents never end"
        self._ids = np.concatenate([self._rest, document])

    def state(self) -> State:
        """Return the state before the newest document, the rest before it, and the number of sequences cut since."""
        rest = base64.b64encode(self._rest.tobytes()).decode()
        return {"cut": self._count, "rest": rest, "source": self._source}

    def restore(self, state: State) -> None:
        """Read the newest document again, up to the sequence after ``state``."""
        self._documents.restore(state["source"])
        self._rest = np.frombuffer(base64.b64decode(state["rest"]), dtype=self._rest.dtype)
        self._begin()
        if state["cut"]:
            self._append_document()
            self._count = state["cut"]

    def batch(self, sequences: Sequence[SignedIds], stream: str) -> Batch:
        """Return a batch of [B, length]; the targets are shifted by one."""
        values = np.stack(sequences).astype(np.int32)
        targets = values[:, 1:].copy()
        targets[targets < 0] = IGNORE
        return packed_batch(_ids(values[:, :-1]), targets, self._first_id, stream)


class PadDocuments:
    """One document per sequence, cut at ``length``."""

    def __init__(
        self, documents: ResumableStream[SignedIds], length: int, eos_id: int, bos_id: int | None = None
    ) -> None:
        self._documents, self._length, self._eos_id = documents, length, eos_id
        # The start token of a document, if there is one, precedes its targets.
        self._prefix, self._skipped = (eos_id, 0) if bos_id is None else (bos_id, 1)
        self._learned = _LearnedFilter()

    def next_item(self) -> SignedIds:
        """Return the next document that has more than its EOS and a learned target, at most ``length`` ids."""
        while True:
            document = self._documents.next_item()
            assert document is not None, "the documents never end"
            targets = document[self._skipped :][: self._length]
            if len(document) > self._skipped + 1 and self._learned.keeps(targets):
                return targets.copy()

    def state(self) -> State:
        """Return the state of the documents."""
        return self._documents.state()

    def restore(self, state: State) -> None:
        """Restore the documents."""
        self._documents.restore(state)

    def batch(self, sequences: Sequence[SignedIds], stream: str) -> Batch:
        """Return a batch of [B, longest]; the first token is the BOS or EOS id that precedes every document."""
        values = _padded(sequences, self._eos_id)
        targets = np.where(values < 0, IGNORE, values)
        tokens = np.full_like(targets, self._prefix)
        tokens[:, 1:] = _ids(values[:, :-1])
        padding = np.arange(values.shape[1]) >= np.array([len(sequence) for sequence in sequences])[:, None]
        tokens[padding], targets[padding] = self._eos_id, IGNORE
        return Batch(tokens=tokens, targets=targets, stream=stream)


def _padded(sequences: Sequence[SignedIds], padding: int) -> NDArray[np.int32]:
    rows = np.full((len(sequences), max(map(len, sequences))), padding, dtype=np.int32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows
