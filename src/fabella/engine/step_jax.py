"""One optimizer step as one compiled function: micro-batches accumulated, gradients clipped, weights moved."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp

from fabella.engine.device_jax import Layout
from fabella.engine.optimizer_jax import Memory, Optimizer
from fabella.models.nn_jax import Network, Part


@dataclass(frozen=True)
class How:
    """What a step is compiled for, beside the shapes of its batch. Engines of the same kind share the compiled step."""

    model: Any
    optimizer: Optimizer
    layout: Layout
    compute: Any
    recompute: bool
    dropout: bool

    def network(self, weights: dict[str, Array], keys: Array) -> Part:
        """The model's weights, with what its dropout is drawn from."""
        drawn = jax.random.wrap_key_data(keys) if self.dropout else None
        return Part(weights, compute=self.compute, keys=drawn, recompute=self.recompute)


class Work(NamedTuple):
    """A global batch, cut into A micro-batches of R rows; rows of padding hold nothing to learn."""

    tokens: Array
    """[A R T]"""
    targets: Array
    """[A R T]"""
    keys: Array
    """[A R 2], what each row's dropout is drawn from"""
    learned: Array
    """[], targets that are not IGNORE"""
    scale: Array
    """[], what the loss is multiplied by, and the gradients divided"""


class Measured(NamedTuple):
    """What a step tells of itself."""

    loss: Array
    norm: Array
    squares: dict[str, Array]
    """Sum of the squares of each weight's gradient: where it is not finite, the gradient is not."""


def gradients_of(how: How, weights: dict[str, Array], work: Work) -> tuple[Array, dict[str, Array]]:
    """Mean loss over all targets of the global batch, and its gradients, still multiplied by ``work.scale``."""

    def loss_of(weights: dict[str, Array], tokens: Array, targets: Array, keys: Array) -> Array:
        return how.model.loss_sum(how.network(weights, keys), tokens, targets) * (work.scale / work.learned)

    def micro_batch(total: Any, part: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows = [lax.with_sharding_constraint(array, how.layout.rows(0)) for array in part]
        found = jax.value_and_grad(loss_of)(weights, *rows)
        return jax.tree.map(jnp.add, total, found), None

    parts = work.tokens, work.targets, work.keys
    if len(work.tokens) == 1:
        return jax.value_and_grad(loss_of)(weights, *(array[0] for array in parts))
    nothing = jnp.zeros((), jnp.float32), {name: jnp.zeros_like(weight) for name, weight in weights.items()}
    return lax.scan(micro_batch, nothing, parts)[0]


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def take_step(
    how: How, weights: dict[str, Array], memory: Memory, work: Work, lr: Array
) -> tuple[dict[str, Array], Memory, Measured]:
    """Weights and memory after one step; both as they were where the gradients are not finite."""
    loss, gradients = gradients_of(how, weights, work)
    gradients = {name: gradient / work.scale for name, gradient in gradients.items()}
    squares = {name: jnp.sum(jnp.square(gradient)) for name, gradient in gradients.items()}
    norm = jnp.sqrt(sum(squares.values(), jnp.zeros(())))
    weights, memory = how.optimizer.update(weights, gradients, memory, lr, norm)
    if how.layout.size > 1:  # or the next step would find its weights laid out otherwise, and be compiled anew
        weights, first, second = (
            {name: lax.with_sharding_constraint(array, how.layout.of(array.shape)) for name, array in arrays.items()}
            for arrays in (weights, memory.first, memory.second)
        )
        memory = Memory(first, second, memory.updates)
    return weights, memory, Measured(loss / work.scale, norm, squares)


@partial(jax.jit, static_argnums=0)
def take_gradients(how: How, weights: dict[str, Array], work: Work) -> dict[str, Array]:
    """The gradients alone: of a step that is looked at, not taken."""
    return gradients_of(how, weights, work)[1]


@partial(jax.jit, static_argnums=(0, 1))
def take_losses(model: Network, compute: Any, weights: dict[str, Array], tokens: Array, targets: Array) -> Array:
    """Each target's negative log-likelihood in nats, [B T], without dropout."""
    return model.losses(Part(weights, compute=compute), tokens, targets)  # pyright: ignore[reportAttributeAccessIssue]
