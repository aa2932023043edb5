"""Output head and cross-entropy in chunks of positions, so that the logits of a whole batch never exist.

As in loss_torch.py, the gradients of a chunk are computed while its logits exist (Hsu et al. 2024, arXiv 2410.10989,
section 3.2). Chunks split the time axis, not the batch axis, whose rows may be on different devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models import IGNORE

LOGITS_ON_CPU, LOGITS_ELSEWHERE = 2**20, 2**24
"""Approximate number of logits per chunk: as many as stay in a CPU's cache; elsewhere 64 MB of float32."""
ROWS = 320
"""Minimum rows of logits per chunk: enough for efficient matrix products."""


def linear_losses(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], compute: Any = jnp.float32
) -> Float[Array, "B T"]:
    """Return the negative log-likelihood of each target in nats under ``hidden @ weight.T``; 0 where IGNORE."""

    def compute_chunked(logits: int, hidden: Array, weight: Array, targets: Array) -> Array:
        def chunk_step(carry: None, part: tuple[Array, Array]) -> tuple[None, Array]:
            losses, _, _ = _losses(_logits(part[0], weight, compute), part[1])
            return carry, losses

        losses = lax.scan(chunk_step, None, _chunks(hidden, targets, _positions(hidden, weight, logits)))[1]
        return jnp.moveaxis(losses, 0, 1).reshape(hidden.shape[0], -1)[:, : hidden.shape[1]]

    return _by_device(compute_chunked, hidden, weight, targets)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_cross_entropy(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], compute: Any = jnp.float32
) -> Float[Array, ""]:
    """Return the sum of the losses in nats of all targets that are not IGNORE."""
    return linear_losses(hidden, weight, targets, compute).sum()


def _forward(hidden: Array, weight: Array, targets: Array, compute: Any) -> tuple[Array, tuple[Array, Array]]:
    def chunk_step(carry: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        total, weight_gradient = carry
        rows, chunk_targets = part
        losses, has_loss, probabilities = _losses(_logits(rows, weight, compute), chunk_targets)
        one_hot = jax.nn.one_hot(chunk_targets, weight.shape[0], dtype=jnp.float32)
        gradient = ((probabilities - one_hot) * has_loss[..., None]).astype(compute)
        chunk_gradient = jnp.einsum("btv,btd->vd", gradient, rows.astype(compute), preferred_element_type=jnp.float32)
        hidden_gradients = jnp.einsum(
            "btv,vd->btd", gradient, weight.astype(compute), preferred_element_type=jnp.float32
        )
        return (total + losses.sum(), weight_gradient + chunk_gradient), hidden_gradients

    def compute_chunked(logits: int, hidden: Array, weight: Array, targets: Array) -> tuple[Array, Array, Array]:
        zeros = (jnp.zeros((), jnp.float32), jnp.zeros_like(weight, jnp.float32))
        parts = _chunks(hidden, targets, _positions(hidden, weight, logits))
        (total, weight_gradient), hidden_gradients = lax.scan(chunk_step, zeros, parts)
        hidden_gradient = jnp.moveaxis(hidden_gradients, 0, 1).reshape(hidden.shape[0], -1, hidden.shape[2])[
            :, : hidden.shape[1]
        ]
        return total, hidden_gradient, weight_gradient

    total, hidden_gradient, weight_gradient = _by_device(compute_chunked, hidden, weight, targets)
    return total, (hidden_gradient.astype(hidden.dtype), weight_gradient.astype(weight.dtype))


def _backward(compute: Any, gradients: tuple[Array, Array], outer: Array) -> tuple[Array, Array, None]:
    # Scale in float32, before rounding: the loss scale of half precision multiplies small gradients here.
    hidden, weight = (gradient * outer for gradient in gradients)
    return hidden, weight, None


linear_cross_entropy.defvjp(_forward, _backward)


def positions_per_chunk(batch: int, vocab_size: int, logits: int) -> int:
    """Return the number of positions of each of ``batch`` sequences that give about ``logits`` logits per chunk."""
    return -(-max(ROWS, logits // vocab_size) // batch)


def _positions(hidden: Array, weight: Array, logits: int) -> int:
    return positions_per_chunk(hidden.shape[0], weight.shape[0], logits)


def _by_device(function: Callable[..., Any], *arrays: Array) -> Any:
    """Call ``function(logits per chunk, *arrays)`` with the chunk size of the device that it is compiled for."""
    cpu, default = partial(function, LOGITS_ON_CPU), partial(function, LOGITS_ELSEWHERE)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def _chunks(hidden: Array, targets: Array, length: int) -> tuple[Array, Array]:
    """Split the time axis into N chunks, [N B t D] and [N B t]; the last one is padded with IGNORE."""
    batch, time, dim = hidden.shape
    count = -(-time // length)
    length = -(-time // count)
    padding = count * length - time
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)), constant_values=IGNORE)
    parts = hidden.reshape(batch, count, length, dim), targets.reshape(batch, count, length)
    return jnp.moveaxis(parts[0], 1, 0), jnp.moveaxis(parts[1], 1, 0)


def _logits(rows: Array, weight: Array, compute: Any) -> Array:
    return jnp.einsum("btd,vd->btv", rows.astype(compute), weight.astype(compute), preferred_element_type=jnp.float32)


def _losses(logits: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Return the loss of each target (0 where IGNORE), whether it has one, and the softmax of ``logits``."""
    has_loss = targets != IGNORE
    max_logit = lax.stop_gradient(logits.max(-1, keepdims=True))
    exponentials = jnp.exp(logits - max_logit)
    total = exponentials.sum(-1, keepdims=True)
    target_logits = jnp.take_along_axis(logits, jnp.where(has_loss, targets, 0)[..., None], -1)
    losses = (jnp.log(total) + max_logit - target_logits)[..., 0]
    return jnp.where(has_loss, losses, 0.0), has_loss, exponentials / total
