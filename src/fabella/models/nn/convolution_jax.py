"""Short causal convolution per channel; convolution_torch.py has the formula."""

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from fabella.models.nn.layers_jax import Params


def short_convolution(
    params: Params, x: Float[Array, "B T D"], past: Float[Array, "B K D"] | None = None
) -> tuple[Float[Array, "B T D"], Float[Array, "B K D"]]:
    """Return y_t = x_t + Σ_j w_j · x_{t−j} and the last K inputs; ``past``: those before ``x`` (None: 0).

    Inputs before the start of a position's document count as 0 (``params.document_starts``).
    """
    weight, time = params["weight"].squeeze(1), x.shape[1]
    size = weight.shape[1]
    if past is None:
        past = jnp.zeros((x.shape[0], size - 1, x.shape[2]), x.dtype)
    inputs = jnp.concatenate((past.astype(x.dtype), x), axis=1)
    y = x
    for start in range(size):
        shifted = inputs[:, start : start + time]
        if params.document_starts is not None:
            age = jnp.arange(time) - params.document_starts  # positions since the document's start
            shifted = shifted * (age >= size - 1 - start)[..., None]
        y = y + shifted * weight[:, start].astype(x.dtype)
    return y, inputs[:, time:]
