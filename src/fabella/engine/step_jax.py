"""One optimizer step as one compiled function: micro-batches accumulated, gradients clipped, weights moved."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp

from fabella.engine.device_jax import Sharding
from fabella.engine.optimizer_jax import Optimizer
from fabella.engine.step_guard import GuardConfig
from fabella.engine.step_guard_jax import GuardTensors, check
from fabella.models.nn.layers_jax import Network, Params
from fabella.optim.updates.interface_jax import OptimizerState


@dataclass(frozen=True)
class StepSpec:
    """What a step is compiled for, beside the shapes of its batch. Engines of the same kind share the compiled step."""

    model: Any
    names: tuple[str, ...]
    """Of the weights, in the order of the family's table."""
    optimizer: Optimizer
    rules: GuardConfig
    layout: Sharding
    compute: Any
    recompute: bool
    dropout: bool

    def network(self, weights: dict[str, Array], keys: Array) -> Params:
        """The model's weights, with what its dropout is drawn from."""
        drawn = jax.random.wrap_key_data(keys) if self.dropout else None
        return Params(weights, compute=self.compute, keys=drawn, recompute=self.recompute)


class StepBatch(NamedTuple):
    """A global batch, cut into A micro-batches of R rows; rows of padding hold nothing to learn."""

    tokens: Array
    """[A R T]"""
    targets: Array
    """[A R T]"""
    keys: Array
    """[A R 2], what each row's dropout is drawn from"""
    learned: Array
    """[], targets that are not IGNORE"""
    step: Array
    """[], which one it is, counted from 1"""


class TrainState(NamedTuple):
    """All that a step begins with and leaves behind for the next; weights and memory in the same place."""

    weights: dict[str, Array]
    memory: OptimizerState


class StepMetrics(NamedTuple):
    """What a step tells of itself: mean loss and the norm of all gradients before clipping, each []."""

    loss: Array
    norm: Array


def gradients_of(
    how: StepSpec, weights: dict[str, Array], work: StepBatch, scale: Array
) -> tuple[Array, dict[str, Array]]:
    """Mean loss over all targets of the global batch, and its gradients, both still multiplied by ``scale`` []."""

    def loss_of(weights: dict[str, Array], tokens: Array, targets: Array, keys: Array) -> Array:
        return how.model.loss_sum(how.network(weights, keys), tokens, targets) * (scale / work.learned)

    def micro_batch(total: Any, part: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows = [lax.with_sharding_constraint(array, how.layout.rows(0)) for array in part]
        found = jax.value_and_grad(loss_of)(weights, *rows)
        return jax.tree.map(jnp.add, total, found), None

    parts = work.tokens, work.targets, work.keys
    if len(work.tokens) == 1:
        return jax.value_and_grad(loss_of)(weights, *(array[0] for array in parts))
    nothing = jnp.zeros((), jnp.float32), {name: jnp.zeros_like(weight) for name, weight in weights.items()}
    return lax.scan(micro_batch, nothing, parts)[0]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    how: StepSpec, held: TrainState, counts: GuardTensors, work: StepBatch, lr: Array
) -> tuple[TrainState, GuardTensors, StepMetrics]:
    """One step; weights and memory stay as they were where it is not to be taken (see ``judge``)."""
    loss, gradients = gradients_of(how, held.weights, work, counts.scale)
    loss, gradients = loss / counts.scale, {name: gradient / counts.scale for name, gradient in gradients.items()}
    squares = jnp.stack([jnp.sum(jnp.square(gradients[name])) for name in how.names])
    norm = jnp.sqrt(squares.sum())
    counts, taken = check(how.rules, counts, work.step, (loss, norm), squares)
    weights, memory = how.optimizer.update(held.weights, gradients, held.memory, lr, norm=norm, apply_update=taken)
    if how.layout.size > 1:  # or the next step would find its weights laid out otherwise, and be compiled anew
        weights, arrays = (
            {name: lax.with_sharding_constraint(array, how.layout.spec(array.shape)) for name, array in arrays.items()}
            for arrays in (weights, memory.arrays)
        )
        memory = OptimizerState(arrays, memory.updates)
    return TrainState(weights, memory), counts, StepMetrics(loss, norm)


@partial(jax.jit, static_argnums=0)
def take_gradients(how: StepSpec, weights: dict[str, Array], work: StepBatch, scale: Array) -> dict[str, Array]:
    """The gradients alone: of a step that is looked at, not taken."""
    return {name: gradient / scale for name, gradient in gradients_of(how, weights, work, scale)[1].items()}


@partial(jax.jit, static_argnums=(0, 1))
def eval_losses(model: Network, compute: Any, weights: dict[str, Array], tokens: Array, targets: Array) -> Array:
    """Each target's negative log-likelihood in nats, [B T], without dropout."""
    return model.token_losses(Params(weights, compute=compute), tokens, targets)  # pyright: ignore[reportAttributeAccessIssue]
