"""Batch of training sequences: numpy arrays of ids and of the ids to predict."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.models import IGNORE


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences: ``targets[b, t]`` is the id that follows ``tokens[b, t]``, or ``fabella.models.IGNORE`` (-100)."""

    tokens: NDArray[np.int32]
    """[B, T], ids; padded with the EOS id."""
    targets: NDArray[np.int32]
    """[B, T], ids or IGNORE."""
    stream: str = ""
    """JSON state of the stream after this batch, to resume from; empty for a pretokenized dataset."""

    @property
    def num_targets(self) -> int:
        """Number of targets that are not IGNORE."""
        return int((self.targets >= 0).sum())

    def padded(self, rows: int, time: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return tokens and targets as arrays [rows, time]; the added positions have no targets."""
        padding = ((0, rows - len(self.tokens)), (0, time - self.tokens.shape[1]))
        return np.pad(self.tokens, padding), np.pad(self.targets, padding, constant_values=IGNORE)
