"""Training sequences of a split: ids, and the id that follows each as its target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.data.dataset import PartRecord, Split, too_small_error
from fabella.errors import DataError
from fabella.models import IGNORE


@dataclass(frozen=True, slots=True)
class PartSize:
    """One part of a mixture in training sequences."""

    sequences: int
    tokens: int
    """Tokens of its documents that sequences contain: all of packed ones, those within the length of padded ones."""
    documents: int
    tokens_per_sequence: float
    """Mean targets of a sequence."""


class SequenceDataset:
    """Sequences of a split, numbered from 0; ``eos_id`` also pads.

    ``Packed``: sequence i is the ids [i * stride, i * stride + length), its targets are shifted by one; a rest shorter
    than a sequence is dropped. ``Padded``: sequence i is the EOS id, which precedes every document, and then document
    i; the targets are the document and its EOS, cut at ``length``.
    ``parts`` of a mixture follow each other; no sequence has tokens of two parts.
    Raises DataError if the split, or one of its parts, is too small for one sequence.
    """

    def __init__(self, split: Split, config: Packed | Padded, eos_id: int, parts: Sequence[PartRecord] = ()) -> None:
        if isinstance(config, Packed):
            self._sequences: _Sequences = _PackedSequences(split, config.length, config.stride, parts)
        else:
            self._sequences = _PaddedSequences(split, config.length, eos_id, parts)

    @property
    def parts(self) -> list[PartSize]:
        """Sizes of the parts of a mixture; of all of the split if it has none."""
        return self._sequences.parts

    def __len__(self) -> int:
        return self._sequences.count

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the sequences ``indices`` (each below ``len``), in that order."""
        assert 0 <= indices.min() <= indices.max() < self._sequences.count, "sequences that exist"
        return self._sequences.batch(indices)


class _Sequences(Protocol):
    count: int
    parts: list[PartSize]

    def batch(self, indices: NDArray[np.int64]) -> Batch: ...


class _PackedSequences:
    def __init__(self, split: Split, length: int, stride: int, parts: Sequence[PartRecord]) -> None:
        sizes = [(part.tokens, part.documents) for part in parts] or [(split.tokens, split.documents)]
        for number, (tokens, _) in enumerate(sizes):
            if tokens < length + 1:
                raise too_small_error(split, length + 1, length, parts[number] if parts else None)
        counts = [(tokens - length - 1) // stride + 1 for tokens, _ in sizes]
        self.parts = [
            PartSize(count, tokens, documents, length) for count, (tokens, documents) in zip(counts, sizes, strict=True)
        ]
        self.count = sum(counts)
        self._firsts = np.cumsum([0, *counts])[:-1]
        self._starts = np.cumsum([0, *(tokens for tokens, _ in sizes)])[:-1]
        self._split, self._length, self._stride = split, length, stride

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        part = np.searchsorted(self._firsts, indices, side="right") - 1
        starts = self._starts[part] + (indices - self._firsts[part]) * self._stride
        ids = self._split.gather(starts, self._length + 1).astype(np.int32)
        return Batch(tokens=ids[:, :-1].copy(), targets=ids[:, 1:].copy())


class _PaddedSequences:
    def __init__(self, split: Split, length: int, eos_id: int, parts: Sequence[PartRecord]) -> None:
        # A document of one id is only its EOS: there is nothing to predict.
        lengths = np.diff(split.offsets)
        self._documents = np.flatnonzero(lengths > 1)
        self.count = len(self._documents)
        if not self.count:
            raise DataError(f"No document of the {split.name} split has a token to predict.", hint="Use more text.")
        self._split, self._length, self._eos_id = split, length, eos_id
        documents = [part.documents for part in parts] or [split.documents]
        borders = np.searchsorted(self._documents, np.cumsum([0, *documents]))
        targets = np.minimum(lengths[self._documents], length)
        self.parts = [
            PartSize(stop - start, int(targets[start:stop].sum()), number, float(targets[start:stop].mean()))
            for start, stop, number in zip(borders[:-1].tolist(), borders[1:].tolist(), documents, strict=True)
            if stop > start
        ]
        if len(self.parts) < len(documents):
            raise DataError(
                f"A part of the mixture has no document with a token to predict in the {split.name} split.",
                hint="Use more text in each part, or leave that part out.",
            )

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        documents = self._documents[indices]
        starts = self._split.offsets[documents]
        lengths = np.minimum(self._split.offsets[documents + 1] - starts, self._length)
        longest = int(lengths.max())
        targets = self._gather(starts, longest)
        padding = np.arange(longest) >= lengths[:, None]
        tokens = np.full_like(targets, self._eos_id)
        tokens[:, 1:] = targets[:, :-1]
        tokens[padding] = self._eos_id
        targets[padding] = IGNORE
        return Batch(tokens=tokens, targets=targets)

    def _gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """Return ``length`` ids from each start, [B, length]; ids beyond the end of the split are arbitrary."""
        inside = np.minimum(starts, self._split.tokens - length)
        ids = self._split.gather(inside, length).astype(np.int32)
        for row in np.flatnonzero(starts != inside):
            ids[row] = np.roll(ids[row], inside[row] - starts[row])
        return ids
