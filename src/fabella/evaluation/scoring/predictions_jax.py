"""Predictions of a JAX model."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.engine.build_model_jax import LoadedModel
from fabella.evaluation.scoring.predictions import Predictions
from fabella.generation.likelihood_jax import pad_to_buckets
from fabella.models.nn.layers_jax import Params


def predictions(model: LoadedModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
    """Return the predictions of all targets, [B T]. The logits of the whole batch are in memory at once."""
    rows, time = tokens.shape
    padded = _predictions(model.model, model.network, *pad_to_buckets(model, tokens, targets))
    nats, confidence, correct = (np.array(array)[:rows, :time] for array in padded)
    return Predictions(nats=nats, confidence=confidence, correct=correct)


@partial(jax.jit, static_argnums=0)
def _predictions(model: Any, network: Params, tokens: Array, targets: Array) -> tuple[Array, Array, Array]:
    logits = model.forward(network, tokens)
    chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], 2)[..., 0]
    top = logits.max(2)
    total = jax.nn.logsumexp(logits, 2)
    return total - chosen, jnp.exp(top - total), logits.argmax(2) == targets
