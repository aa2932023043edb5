"""Order of the training sequences: a fixed one for each position of a run, without replacement.

    epoch = p // n     sequence = permutation(seed, epoch) of (p mod n)   [+ epoch · n, for other sequences per epoch]

The order is independent of batch sizes, processes and resumes. Each epoch has every sequence once; the state is the
position p, one integer.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.data.permutation import permute
from fabella.splitmix64 import splitmix64


class Sampler(Protocol):
    """Order of training sequences."""

    def sequences(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sequences at positions ``start`` to ``stop - 1``."""
        ...


class PermutationSampler:
    """Order of ``n`` sequences under ``seed``."""

    def __init__(self, n: int, seed: int, epoch_offset: int = 0) -> None:
        """``epoch_offset`` is added to the numbers of the second epoch, twice to those of the third, and so on."""
        assert n > 0, "at least one sequence"
        self.n = n
        self.seed = seed
        self.epoch_offset = epoch_offset

    def sequences(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sequences at positions ``start`` to ``stop - 1``, across epochs."""
        parts: list[NDArray[np.int64]] = []
        while start < stop:
            epoch, first = divmod(start, self.n)
            last = min(stop - epoch * self.n, self.n)
            order = permute(np.arange(first, last), self.n, self._key(epoch))
            parts.append(order + epoch * self.epoch_offset)
            start += last - first
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def epoch(self, position: int) -> int:
        """Return the epoch of ``position``, counted from 0."""
        return position // self.n

    def _key(self, epoch: int) -> int:
        # Hashed one after the other, so that (seed 1, epoch 2) and (seed 2, epoch 1) are unrelated.
        return splitmix64(splitmix64(self.seed) + splitmix64(~epoch))
