"""What a model is fed: numpy arrays of ids, and the ids to predict."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """``targets[b, t]`` is the id that follows ``tokens[b, t]``, or IGNORE (-100) where there is none to learn."""

    tokens: NDArray[np.int32]
    """[B T], ids; padded with the tokenizer's end id"""
    targets: NDArray[np.int32]
    """[B T], ids or IGNORE"""
    stream: str = ""
    """where a stream stands after this batch, for going on from there; empty for prepared data"""

    @property
    def num_targets(self) -> int:
        """Number of targets that are not ignored."""
        return int((self.targets >= 0).sum())
