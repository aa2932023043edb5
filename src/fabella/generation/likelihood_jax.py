"""Per-token log-likelihood of token ids under a JAX model."""

import numpy as np
from numpy.typing import NDArray

from fabella.engine.build_model_jax import LoadedModel
from fabella.engine.step_jax import eval_losses
from fabella.models import IGNORE


def token_losses(model: LoadedModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the negative log-likelihood of every target in nats, [B T]; 0 where the target is IGNORE."""
    rows, length = tokens.shape
    padded = pad_to_buckets(model, tokens, targets)
    return np.array(eval_losses(model.model, model.compute, model.weights, *padded))[:rows, :length]


def pad_to_buckets(
    model: LoadedModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pad rows and columns to powers of two, so that JAX compiles few shapes.

    The models are causal: padding at the end does not change the losses before it.
    """
    rows, length = (1 << (size - 1).bit_length() for size in tokens.shape)
    if not model.config.unlimited_context:
        length = max(tokens.shape[1], min(length, model.config.context_length))
    padding = ((0, rows - tokens.shape[0]), (0, length - tokens.shape[1]))
    return np.pad(tokens, padding), np.pad(targets, padding, constant_values=IGNORE)
