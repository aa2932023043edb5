"""What is learned from at once: windows of ids, with the id that follows each as its target."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.data.dataset import Split, too_small
from fabella.errors import DataError
from fabella.models import IGNORE


class SequenceDataset:
    """The windows of a split, numbered from 0; ``end`` is the tokenizer's end id, which also pads.

    ``Chained``: window i is the ids [i·stride, i·stride + length), its targets are one further; a rest too short
    for a whole window is left out. ``Documents``: window i reads the end id, as it stands before every document in a
    line, and then document i; the document and its end, cut at ``length``, are the targets.
    Raises DataError where the text is too small for a single window.
    """

    def __init__(self, split: Split, section: Packed | Padded, end: int) -> None:
        make = _Chained if isinstance(section, Packed) else _Documents
        self._cut: _Cut = make(split, section.length, getattr(section, "stride", 0), end)

    def __len__(self) -> int:
        return self._cut.count

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The windows ``indices`` (each below ``len``), in that order."""
        assert 0 <= indices.min() <= indices.max() < self._cut.count, "windows that exist"
        return self._cut.batch(indices)


class _Cut(Protocol):
    count: int

    def batch(self, indices: NDArray[np.int64]) -> Batch: ...


class _Chained:
    def __init__(self, split: Split, length: int, stride: int, end: int) -> None:
        if split.tokens < length + 1:
            raise too_small(split, length + 1, length)
        self.count = (split.tokens - length - 1) // stride + 1
        self._split, self._length, self._stride = split, length, stride

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        ids = self._split.gather(indices * self._stride, self._length + 1).astype(np.int32)
        return Batch(tokens=ids[:, :-1].copy(), targets=ids[:, 1:].copy())


class _Documents:
    def __init__(self, split: Split, length: int, stride: int, end: int) -> None:
        # A document of one id is its end alone: nothing to read, nothing to learn.
        self._documents = np.flatnonzero(np.diff(split.offsets) > 1)
        self.count = len(self._documents)
        if not self.count:
            raise DataError(f"No document of the {split.name} text has a token to learn.", hint="Bring more text.")
        self._split, self._length, self._end = split, length, end

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        chosen = self._documents[indices]
        starts = self._split.offsets[chosen]
        lengths = np.minimum(self._split.offsets[chosen + 1] - starts, self._length)
        longest = int(lengths.max())
        targets = self._padded(starts, longest)
        beyond = np.arange(longest) >= lengths[:, None]
        tokens = np.full_like(targets, self._end)
        tokens[:, 1:] = targets[:, :-1]
        tokens[beyond] = self._end
        targets[beyond] = IGNORE
        return Batch(tokens=tokens, targets=targets)

    def _padded(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """``length`` ids from each start; where the text ends before that, what follows is arbitrary."""
        inside = np.minimum(starts, self._split.tokens - length)
        ids = self._split.gather(inside, length).astype(np.int32)
        for row in np.flatnonzero(starts != inside):
            ids[row] = np.roll(ids[row], inside[row] - starts[row])
        return ids
