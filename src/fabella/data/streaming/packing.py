"""Sequences cut from a stream of documents, as sequences.py cuts them from a dataset on disk, and their batches."""

import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.data.dataset import TokenIds
from fabella.data.streaming.shuffle_buffer import ResumableStream, State
from fabella.models import IGNORE


class SequencePacker(ResumableStream[TokenIds], Protocol):
    """Stream of sequences."""

    def batch(self, sequences: Sequence[TokenIds], stream: str) -> Batch:
        """Return the batch of some of its sequences; ``stream`` is the state of the stream after them."""
        ...


def packer(
    documents: ResumableStream[TokenIds], config: Packed | Padded, eos_id: int, dtype: "np.dtype[Any]"
) -> SequencePacker:
    """Return the sequences that ``config`` describes; ``eos_id`` also pads."""
    return (
        PackDocuments(documents, config, dtype)
        if isinstance(config, Packed)
        else PadDocuments(documents, config.length, eos_id)
    )


class PackDocuments:
    """Concatenate documents and cut sequences of ``length + 1`` ids, one every ``stride`` ids."""

    def __init__(self, documents: ResumableStream[TokenIds], config: Packed, dtype: "np.dtype[Any]") -> None:
        self._documents, self._length, self._stride = documents, config.length, config.stride
        self._rest: TokenIds = np.empty(0, dtype=dtype)
        self._begin()

    def _begin(self) -> None:
        """Start with the next document; ``_rest`` is left from earlier ones, too short for a sequence."""
        self._source, self._ids, self._count = self._documents.state(), self._rest, 0

    def next_item(self) -> TokenIds:
        """Return the next sequence, [length + 1]."""
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

    def batch(self, sequences: Sequence[TokenIds], stream: str) -> Batch:
        """Return a batch of [B, length]; the targets are shifted by one."""
        ids = np.stack(sequences).astype(np.int32)
        return Batch(tokens=ids[:, :-1].copy(), targets=ids[:, 1:].copy(), stream=stream)


class PadDocuments:
    """One document per sequence, cut at ``length``."""

    def __init__(self, documents: ResumableStream[TokenIds], length: int, eos_id: int) -> None:
        self._documents, self._length, self._eos_id = documents, length, eos_id

    def next_item(self) -> TokenIds:
        """Return the next document that has more than its EOS, at most ``length`` ids."""
        while True:
            document = self._documents.next_item()
            assert document is not None, "the documents never end"
            if len(document) > 1:
                return document[: self._length].copy()

    def state(self) -> State:
        """Return the state of the documents."""
        return self._documents.state()

    def restore(self, state: State) -> None:
        """Restore the documents."""
        self._documents.restore(state)

    def batch(self, sequences: Sequence[TokenIds], stream: str) -> Batch:
        """Return a batch of [B, longest]; the first token is the EOS id, which precedes every document."""
        targets = _padded(sequences, IGNORE)
        tokens = np.full_like(targets, self._eos_id)
        tokens[:, 1:] = _padded(sequences, self._eos_id)[:, :-1]
        tokens[targets == IGNORE] = self._eos_id
        return Batch(tokens=tokens, targets=targets, stream=stream)


def _padded(sequences: Sequence[TokenIds], padding: int) -> NDArray[np.int32]:
    rows = np.full((len(sequences), max(map(len, sequences))), padding, dtype=np.int32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return rows
