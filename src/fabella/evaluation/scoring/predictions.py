"""Next-token predictions in the form that all engines return."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of each target; undefined where the target is IGNORE."""

    nats: NDArray[np.float32]
    """Negative log-likelihood of the target, [B T]."""
    confidence: NDArray[np.float32]
    """Probability of the most likely token, [B T]."""
    correct: NDArray[np.bool_]
    """True where the most likely token is the target, [B T]."""


class Predict(Protocol):
    """``predictions`` of an engine bound to a model: tokens and targets [B T] → predictions."""

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions: ...
