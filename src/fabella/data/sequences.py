"""Training sequences of a split: ids, and the id that follows each as its target."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch, document_starts
from fabella.data.dataset import PartRecord, Split, too_small_error
from fabella.data.npy import ShardedArray
from fabella.data.permutation import permute
from fabella.errors import DataError
from fabella.models import IGNORE
from fabella.splitmix64 import splitmix64


@dataclass(frozen=True, slots=True)
class PartSize:
    """One part of a mixture in training sequences."""

    sequences: int
    tokens: int
    """Tokens of its documents that sequences contain: all of packed ones, those within the length of padded ones."""
    documents: int
    tokens_per_sequence: float
    """Mean targets of a sequence."""


class TrainingSequences(Protocol):
    """Numbered training sequences."""

    @property
    def parts(self) -> list[PartSize]:
        """Sizes of the parts of a mixture; of all of the split if it has none."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the sequences ``indices``, in that order."""
        ...


class SequenceDataset:
    """Sequences of a split, numbered from 0; ``eos_id`` also pads.

    ``Packed``: sequence i is the ids [i * stride, i * stride + length), its targets are shifted by one; a rest shorter
    than a sequence is dropped. ``Padded``: sequence i is the EOS id, which precedes every document, and then document
    i; the targets are the document and its EOS, cut at ``length``.
    ``parts`` of a mixture follow each other; no sequence has tokens of two parts.
    With a loss mask, targets that are not learned are IGNORE, and sequences without a learned target are left out.
    ``bos_id``: the id that starts each document, which precedes a padded one in place of the EOS id.
    Batches of ``Packed`` with ``mask_documents`` have ``document_starts``.
    Raises DataError if the split, or one of its parts, is too small for one sequence.
    """

    def __init__(
        self,
        split: Split,
        config: Packed | Padded,
        eos_id: int,
        parts: Sequence[PartRecord] = (),
        *,
        bos_id: int | None = None,
    ) -> None:
        if isinstance(config, Packed):
            self._sequences: _Sequences = _PackedSequences(
                split, config.length, config.stride, parts, first_id=first_id(config, eos_id, bos_id)
            )
        else:
            self._sequences = _PaddedSequences(split, config.length, eos_id, parts, bos_id)

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
    def __init__(
        self, split: Split, length: int, stride: int, parts: Sequence[PartRecord], *, first_id: int | None = None
    ) -> None:
        """``first_id``: the id at which documents start; None leaves them unmasked."""
        sizes = [(part.tokens, part.documents) for part in parts] or [(split.tokens, split.documents)]
        for number, (tokens, _) in enumerate(sizes):
            if tokens < length + 1:
                raise too_small_error(split, length + 1, length, parts[number] if parts else None)
        counts = [(tokens - length - 1) // stride + 1 for tokens, _ in sizes]
        self._firsts = np.cumsum([0, *counts])[:-1]
        self._starts = np.cumsum([0, *(tokens for tokens, _ in sizes)])[:-1]
        self._split, self._length, self._stride, self._first_id = split, length, stride, first_id
        self.parts = [
            PartSize(count, tokens, documents, length) for count, (tokens, documents) in zip(counts, sizes, strict=True)
        ]
        self.count = sum(counts)
        self._kept: NDArray[np.int64] | None = None
        if split.loss_mask is not None:
            self._keep_learned(np.cumsum([0, *counts]))

    def _keep_learned(self, borders: NDArray[np.int64]) -> None:
        """Leave out sequences without a learned target; ``borders``: first sequence of each part, and their number."""
        starts = self._start_of(np.arange(self.count)) + 1
        learned = self._split.learned(starts, starts + self._length)
        self._kept = np.flatnonzero(learned)
        self.parts = [
            _with_learned(size, learned[start:stop], self._split)
            for size, start, stop in zip(self.parts, borders[:-1].tolist(), borders[1:].tolist(), strict=True)
        ]
        self.count = len(self._kept)

    def _start_of(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        part = np.searchsorted(self._firsts, sequences, side="right") - 1
        return self._starts[part] + (sequences - self._firsts[part]) * self._stride

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        starts = self._start_of(indices if self._kept is None else self._kept[indices])
        ids = self._split.gather(starts, self._length + 1).astype(np.int32)
        targets = ids[:, 1:].copy()
        if self._split.loss_mask is not None:
            targets[self._split.loss_mask.gather(starts + 1, self._length) == 0] = IGNORE
        return packed_batch(ids[:, :-1].copy(), targets, self._first_id)


class ReshuffledSequences:
    """Packed sequences whose neighbors and cuts change with every epoch, for training.

    Sequence i + e·n, with n sequences per epoch, is sequence i of epoch e: the documents of a part, permuted and
    rotated by a key of (seed, part, epoch), and cut every ``length`` ids. The first document follows the last one.
    Sequence numbers and sizes of the parts are those of SequenceDataset. ``first_id``: the id at which documents start;
    None leaves them unmasked.
    """

    def __init__(
        self, split: Split, config: Packed, parts: Sequence[PartRecord], seed: int, *, first_id: int | None = None
    ) -> None:
        self._split, self._length, self._seed, self._first_id = split, config.length, seed, first_id
        self.parts = _PackedSequences(split, config.length, config.stride, parts).parts
        self._firsts = np.cumsum([0, *(size.sequences for size in self.parts)])
        self._documents = np.cumsum([0, *(size.documents for size in self.parts)])
        self._order = lru_cache(maxsize=2 * len(self.parts))(self._permuted)  # two epochs: a batch may be in both

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the sequences ``indices``, in that order."""
        positions = np.empty((len(indices), self._length + 1), np.int64)
        epochs, sequences = np.divmod(indices, len(self))
        parts = np.searchsorted(self._firsts, sequences, side="right") - 1
        for epoch, part in sorted(set(zip(epochs.tolist(), parts.tolist(), strict=True))):
            rows = np.flatnonzero((epochs == epoch) & (parts == part))
            positions[rows] = self._positions(part, epoch, sequences[rows] - self._firsts[part])
        ids = self._split.gather(positions.ravel(), 1).reshape(positions.shape).astype(np.int32)
        return packed_batch(ids[:, :-1].copy(), ids[:, 1:].copy(), self._first_id)

    def _positions(self, part: int, epoch: int, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the ids of some sequences of a part are in the split, [B, length + 1]."""
        ends, moves, rotation = self._order(part, epoch)
        places = rotation + sequences[:, None] * self._length + np.arange(self._length + 1)
        places %= ends[-1]
        return places + moves[np.searchsorted(ends, places, side="right")]

    def _permuted(self, part: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return, for each document in the order of an epoch, its end and its move; and the place of the first id.

        The move of a document is its position in the split minus its place in that order.
        """
        first, last = self._documents[part : part + 2].tolist()
        key = splitmix64(splitmix64(splitmix64(self._seed) + splitmix64(part)) + splitmix64(~epoch))
        documents = first + permute(np.arange(last - first), last - first, key)
        ends = np.cumsum(self._split.offsets[documents + 1] - self._split.offsets[documents])
        return ends, self._split.offsets[documents + 1] - ends, splitmix64(key) % int(ends[-1])


def first_id(config: Packed | Padded, eos_id: int, bos_id: int | None) -> int | None:
    """Return the id at which the documents of packed sequences start; None if ``config`` does not mask them."""
    if not isinstance(config, Packed) or not config.mask_documents:
        return None
    return eos_id if bos_id is None else bos_id


def packed_batch(
    tokens: NDArray[np.int32], targets: NDArray[np.int32], first_id: int | None, stream: str = ""
) -> Batch:
    """Return a batch of packed sequences, with ``document_starts`` unless ``first_id`` is None."""
    starts = None if first_id is None else document_starts(tokens, first_id)
    return Batch(tokens, targets, starts, stream)


def _with_learned(size: PartSize, learned: NDArray[np.int64], split: Split) -> PartSize:
    """Return the size of a part with those of its sequences that have learned targets."""
    kept = learned[learned > 0]
    if not len(kept):
        raise no_targets_error(split)
    return PartSize(len(kept), size.tokens, size.documents, float(kept.mean()))


def no_targets_error(split: Split) -> DataError:
    """Return the error for a split, or a part of it, without a target."""
    if split.loss_mask is None:
        return DataError(f"No document of the {split.name} split has a token to predict.", hint="Use more text.")
    return DataError(
        f"No sequence of the {split.name} split has a token of an answer (data.loss_on = answers).",
        hint="Use longer sequences or text with answers, or data.loss_on=all (prepare: --loss-on all).",
    )


class _PaddedSequences:
    def __init__(self, split: Split, length: int, eos_id: int, parts: Sequence[PartRecord], bos_id: int | None) -> None:
        self._split, self._length, self._eos_id = split, length, eos_id
        # The start token of a document, if there is one, precedes its targets.
        self._prefix, self._skipped = (eos_id, 0) if bos_id is None else (bos_id, 1)
        # A document of one id more is only its EOS: there is nothing to predict.
        lengths = np.diff(split.offsets) - self._skipped
        starts = split.offsets[:-1] + self._skipped
        learned = split.learned(starts, starts + np.clip(lengths, 0, length))
        self._documents = np.flatnonzero((lengths > 1) & (learned > 0))
        self.count = len(self._documents)
        if not self.count:
            raise no_targets_error(split)
        documents = [part.documents for part in parts] or [split.documents]
        borders = np.searchsorted(self._documents, np.cumsum([0, *documents]))
        targets = learned[self._documents]
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
        starts = self._split.offsets[documents] + self._skipped
        lengths = np.minimum(self._split.offsets[documents + 1] - starts, self._length)
        longest = int(lengths.max())
        targets = self._gather(self._split, starts, longest)
        padding = np.arange(longest) >= lengths[:, None]
        tokens = np.full_like(targets, self._prefix)
        tokens[:, 1:] = targets[:, :-1]
        tokens[padding] = self._eos_id
        targets[padding] = IGNORE
        if self._split.loss_mask is not None:
            targets[self._gather(self._split.loss_mask, starts, longest) == 0] = IGNORE
        return Batch(tokens=tokens, targets=targets)

    def _gather(self, array: Split | ShardedArray, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """Return ``length`` numbers from each start, [B, length]; those beyond the end of the split are arbitrary."""
        inside = np.minimum(starts, self._split.tokens - length)
        ids = array.gather(inside, length).astype(np.int32)
        for row in np.flatnonzero(starts != inside):
            ids[row] = np.roll(ids[row], inside[row] - starts[row])
        return ids
