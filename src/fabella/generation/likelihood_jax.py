"""How likely a model finds the ids of a text."""

import numpy as np
from numpy.typing import NDArray

from fabella.engine.engine_jax import LoadedModel
from fabella.engine.step_jax import eval_losses
from fabella.models import IGNORE


def token_losses(model: LoadedModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    """Negative log-likelihood of every target in nats, [B T]; 0 where the target is IGNORE."""
    rows, time = tokens.shape
    given = pad_to_buckets(model, tokens, targets)
    return np.array(eval_losses(model.model, model.compute, model.weights, *given))[:rows, :time]


def pad_to_buckets(
    model: LoadedModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The same with rows and columns of nothing beside: each shape is compiled once, and there are few.

    What is added at an end is not looked at by what comes before it.
    """
    rows, time = (1 << (size - 1).bit_length() for size in tokens.shape)
    if not model.config.unlimited_context:
        time = max(tokens.shape[1], min(time, model.config.context_length))
    spare = ((0, rows - tokens.shape[0]), (0, time - tokens.shape[1]))
    return np.pad(tokens, spare), np.pad(targets, spare, constant_values=IGNORE)
