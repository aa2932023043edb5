"""The read-out head and its loss together, without ever holding the logits of a whole batch.

As in nn_loss_torch.py: a stretch of positions at a time, and while its logits are at hand their gradients are formed,
too (Hsu et al. 2024, arXiv 2410.10989, section 3.2). Stretches are cut out of time, not out of the batch, whose rows
may lie on different devices.
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
"""Logits at once, about: what stays in a CPU's cache; 64 MB of float32 where every launch counts."""
ROWS = 320
"""Of logits at once where that is more: enough for the matrix products to run at full speed."""


def linear_losses(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], compute: Any = jnp.float32
) -> Float[Array, "B T"]:
    """Each target's negative log-likelihood in nats under ``hidden @ weight.T``; 0 where IGNORE."""

    def by_stretches(logits: int, hidden: Array, weight: Array, targets: Array) -> Array:
        def stretch(nothing: None, part: tuple[Array, Array]) -> tuple[None, Array]:
            losses, _, _ = _losses(_product(part[0], weight, compute), part[1])
            return nothing, losses

        losses = lax.scan(stretch, None, _stretches(hidden, targets, _positions(hidden, weight, logits)))[1]
        return jnp.moveaxis(losses, 0, 1).reshape(hidden.shape[0], -1)[:, : hidden.shape[1]]

    return _by_device(by_stretches, hidden, weight, targets)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_cross_entropy(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], compute: Any = jnp.float32
) -> Float[Array, ""]:
    """Sum of the losses in nats of all targets that are not IGNORE."""
    return linear_losses(hidden, weight, targets, compute).sum()


def _forward(hidden: Array, weight: Array, targets: Array, compute: Any) -> tuple[Array, tuple[Array, Array]]:
    def stretch(so_far: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        total, weight_gradient = so_far
        rows, wanted = part
        losses, learned, probabilities = _losses(_product(rows, weight, compute), wanted)
        one_hot = jax.nn.one_hot(wanted, weight.shape[0], dtype=jnp.float32)
        gradient = ((probabilities - one_hot) * learned[..., None]).astype(compute)
        here = jnp.einsum("btv,btd->vd", gradient, rows.astype(compute), preferred_element_type=jnp.float32)
        back = jnp.einsum("btv,vd->btd", gradient, weight.astype(compute), preferred_element_type=jnp.float32)
        return (total + losses.sum(), weight_gradient + here), back

    def by_stretches(logits: int, hidden: Array, weight: Array, targets: Array) -> tuple[Array, Array, Array]:
        zeros = (jnp.zeros((), jnp.float32), jnp.zeros_like(weight, jnp.float32))
        parts = _stretches(hidden, targets, _positions(hidden, weight, logits))
        (total, weight_gradient), back = lax.scan(stretch, zeros, parts)
        hidden_gradient = jnp.moveaxis(back, 0, 1).reshape(hidden.shape[0], -1, hidden.shape[2])[:, : hidden.shape[1]]
        return total, hidden_gradient, weight_gradient

    total, hidden_gradient, weight_gradient = _by_device(by_stretches, hidden, weight, targets)
    return total, (hidden_gradient.astype(hidden.dtype), weight_gradient.astype(weight.dtype))


def _backward(compute: Any, gradients: tuple[Array, Array], outer: Array) -> tuple[Array, Array, None]:
    # In float32 before anything is rounded: the scale of a half-precision loss multiplies small gradients here.
    hidden, weight = (gradient * outer for gradient in gradients)
    return hidden, weight, None


linear_cross_entropy.defvjp(_forward, _backward)


def positions_at_once(batch: int, vocab_size: int, logits: int) -> int:
    """Positions of each of ``batch`` texts whose ``logits``, about, are at hand at once."""
    return -(-max(ROWS, logits // vocab_size) // batch)


def _positions(hidden: Array, weight: Array, logits: int) -> int:
    return positions_at_once(hidden.shape[0], weight.shape[0], logits)


def _by_device(work: Callable[..., Any], *arrays: Array) -> Any:
    """``work(logits at once, *arrays)``, compiled for the device that it is on."""
    cpu, default = partial(work, LOGITS_ON_CPU), partial(work, LOGITS_ELSEWHERE)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def _stretches(hidden: Array, targets: Array, length: int) -> tuple[Array, Array]:
    """[N B t D] and [N B t]: time cut into N stretches, the last one filled up with what is not learned."""
    batch, time, dim = hidden.shape
    count = -(-time // length)
    length = -(-time // count)
    spare = count * length - time
    hidden = jnp.pad(hidden, ((0, 0), (0, spare), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, spare)), constant_values=IGNORE)
    parts = hidden.reshape(batch, count, length, dim), targets.reshape(batch, count, length)
    return jnp.moveaxis(parts[0], 1, 0), jnp.moveaxis(parts[1], 1, 0)


def _product(rows: Array, weight: Array, compute: Any) -> Array:
    return jnp.einsum("btd,vd->btv", rows.astype(compute), weight.astype(compute), preferred_element_type=jnp.float32)


def _losses(logits: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Each target's loss (0 where IGNORE), whether it is learned, and the softmax of ``logits``."""
    learned = targets != IGNORE
    top = lax.stop_gradient(logits.max(-1, keepdims=True))
    raised = jnp.exp(logits - top)
    total = raised.sum(-1, keepdims=True)
    wanted = jnp.take_along_axis(logits, jnp.where(learned, targets, 0)[..., None], -1)
    losses = (jnp.log(total) + top - wanted)[..., 0]
    return jnp.where(learned, losses, 0.0), learned, raised / total
