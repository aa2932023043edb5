"""What a model says of each next token, as the evaluation needs it; the same from every engine."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of each target; anything where it is IGNORE."""

    nats: NDArray[np.float32]
    """Negative log-likelihood of the target, [B T]."""
    confidence: NDArray[np.float32]
    """Probability of the likeliest token, [B T]."""
    correct: NDArray[np.bool_]
    """Whether that one was the target, [B T]."""


class Predict(Protocol):
    """``predictions`` of an engine, with its model: tokens and targets [B T] → predictions."""

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions: ...
