"""The order of training: sample ``p`` of a run is a fixed window, whatever the batch sizes, processes or resumes.

    epoch = p // n     window = permutation(seed, epoch) of (p mod n)

Each epoch goes through every window once; the whole state is the position, one integer.
"""

import numpy as np
from numpy.typing import NDArray

from fabella.data.permutation import permute
from fabella.splitmix64 import splitmix64


class PermutationSampler:
    """The order of ``n`` windows under ``seed``."""

    def __init__(self, n: int, seed: int) -> None:
        assert n > 0, "an order of nothing"
        self.n = n
        self.seed = seed

    def sequences(self, start: int, stop: int) -> NDArray[np.int64]:
        """Windows of the samples ``start`` to ``stop - 1``, through as many epochs as that takes."""
        parts: list[NDArray[np.int64]] = []
        while start < stop:
            epoch, first = divmod(start, self.n)
            last = min(stop - epoch * self.n, self.n)
            parts.append(permute(np.arange(first, last), self.n, self._key(epoch)))
            start += last - first
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def epoch(self, position: int) -> int:
        """The epoch, from 0, that sample ``position`` belongs to."""
        return position // self.n

    def _key(self, epoch: int) -> int:
        # Mixed one after the other: (seed 1, epoch 2) and (seed 2, epoch 1) have nothing in common.
        return splitmix64(splitmix64(self.seed) + splitmix64(~epoch))
