"""One optimizer step as one compiled function: gradient accumulation, clipping, update."""

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
    """Static arguments of a step: it is compiled for these and the shapes of its batch. Equal specs share it."""

    model: Any
    names: tuple[str, ...]
    """Of the trained weights, in the order of the parameter table; all others are frozen."""
    optimizer: Optimizer
    guard: GuardConfig
    sharding: Sharding
    compute: Any
    gradient_checkpointing: bool
    dropout: bool

    def network(self, weights: dict[str, Array], keys: Array, document_starts: Array | None) -> Params:
        """Return the parameters that the model takes; ``keys`` [R 2]: random keys of its dropout."""
        dropout_keys = jax.random.wrap_key_data(keys) if self.dropout else None
        return Params(
            weights,
            compute=self.compute,
            keys=dropout_keys,
            document_starts=document_starts,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class StepBatch(NamedTuple):
    """A global batch in A micro-batches of R rows; padding rows have no targets."""

    tokens: Array
    """[A R T]"""
    targets: Array
    """[A R T]"""
    keys: Array
    """[A R 2], random key of each row's dropout"""
    document_starts: Array | None
    """[A R T], position at which the document of each token starts; None: documents are not masked"""
    num_targets: Array
    """[], number of targets that are not IGNORE"""
    step: Array
    """[], number of the step, counted from 1"""


class TrainState(NamedTuple):
    """Weights and optimizer state between two steps; a step reuses their memory."""

    weights: dict[str, Array]
    optimizer: OptimizerState


class StepMetrics(NamedTuple):
    """Mean loss, global gradient norm before clipping, and whether the step was applied, each []."""

    loss: Array
    norm: Array
    applied: Array


def gradients_of(
    spec: StepSpec, weights: dict[str, Array], batch: StepBatch, scale: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the mean loss over all targets of the global batch and the gradients of the trained weights.

    Both are multiplied by ``scale`` [].
    """

    trained = {name: weights[name] for name in spec.names}

    def loss_of(
        trained: dict[str, Array], tokens: Array, targets: Array, keys: Array, document_starts: Array | None
    ) -> Array:
        network = spec.network({**weights, **trained}, keys, document_starts)
        return spec.model.loss_sum(network, tokens, targets) * (scale / batch.num_targets)

    def micro_batch(total: Any, part: tuple[Array | None, ...]) -> tuple[Any, None]:
        rows = [None if array is None else lax.with_sharding_constraint(array, spec.sharding.rows(0)) for array in part]
        result = jax.value_and_grad(loss_of)(trained, *rows)
        return jax.tree.map(jnp.add, total, result), None

    parts = batch.tokens, batch.targets, batch.keys, batch.document_starts
    if len(batch.tokens) == 1:
        return jax.value_and_grad(loss_of)(trained, *(None if array is None else array[0] for array in parts))
    zeros = jnp.zeros((), jnp.float32), {name: jnp.zeros_like(weight) for name, weight in trained.items()}
    return lax.scan(micro_batch, zeros, parts)[0]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    spec: StepSpec, state: TrainState, guard: GuardTensors, batch: StepBatch, lr: Array
) -> tuple[TrainState, GuardTensors, StepMetrics]:
    """Take one step; a step that the guard skips leaves weights and optimizer state unchanged."""
    loss, gradients = gradients_of(spec, state.weights, batch, guard.loss_scale)
    loss, gradients = (
        loss / guard.loss_scale,
        {name: gradient / guard.loss_scale for name, gradient in gradients.items()},
    )
    squares = jnp.stack([jnp.sum(jnp.square(gradients[name])) for name in spec.names])
    norm = jnp.sqrt(squares.sum())
    guard, apply_update = check(spec.guard, guard, batch.step, (loss, norm), squares)
    trained = {name: state.weights[name] for name in spec.names}
    trained, optimizer = spec.optimizer.update(
        trained, gradients, state.optimizer, lr, norm=norm, apply_update=apply_update
    )
    weights = {**state.weights, **trained}
    if spec.sharding.size > 1:  # otherwise the next step would see another sharding and be compiled again
        weights, arrays = (
            {
                name: lax.with_sharding_constraint(array, spec.sharding.spec(array.shape))
                for name, array in arrays.items()
            }
            for arrays in (weights, optimizer.arrays)
        )
        optimizer = OptimizerState(arrays, optimizer.updates)
    return TrainState(weights, optimizer), guard, StepMetrics(loss, norm, apply_update)


@partial(jax.jit, static_argnums=0)
def take_gradients(spec: StepSpec, weights: dict[str, Array], batch: StepBatch, scale: Array) -> dict[str, Array]:
    """Return the gradients of a batch without taking a step."""
    return {name: gradient / scale for name, gradient in gradients_of(spec, weights, batch, scale)[1].items()}


@partial(jax.jit, static_argnums=(0, 1))
def eval_losses(
    model: Network,
    compute: Any,
    weights: dict[str, Array],
    tokens: Array,
    targets: Array,
    document_starts: Array | None = None,
) -> Array:
    """Return the loss of each target in nats, [B T], without dropout."""
    params = Params(weights, compute=compute, document_starts=document_starts)
    return model.token_losses(params, tokens, targets)  # pyright: ignore[reportAttributeAccessIssue]
