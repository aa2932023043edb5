"""The optimizer of a training with JAX: clipping, skipping of non-finite steps, and the optimizer state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.config.optimizer import OptimizerConfig
from fabella.engine.device_jax import Sharding
from fabella.engine.weight_average_jax import WeightAverage
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import engine_module, zero_state
from fabella.optim.updates.interface_jax import JaxOptimizer, OptimizerState


@dataclass(frozen=True)
class Optimizer:
    """Clips the gradients, updates the weights by the config's optimizer, and skips non-finite steps."""

    rule: JaxOptimizer
    max_grad_norm: float
    initial_state: Callable[[], dict[str, NDArray[np.float32]]] = field(compare=False)
    """Returns the optimizer state before the first step"""
    create_average: Callable[[Sharding], WeightAverage] = field(compare=False)
    """Returns the average of the weights before the first step"""

    @classmethod
    def create(cls, table: ParameterTable, config: OptimizerConfig) -> "Optimizer":
        """Raise ConfigError for an optimizer without a JAX implementation."""
        rule = engine_module(config.kind, "jax").create_optimizer(table, config)

        def create_average(sharding: Sharding) -> WeightAverage:
            return WeightAverage(sharding, table, config.average)

        return cls(rule, config.max_grad_norm, partial(zero_state, table, config), create_average)

    def update(
        self,
        weights: Mapping[str, Array],
        gradients: Mapping[str, Array],
        state: OptimizerState,
        lr: Array,
        *,
        norm: Array,
        apply_update: Array,
    ) -> tuple[Any, OptimizerState]:
        """Return weights and state after a step, unchanged where ``apply_update`` [] is False.

        ``norm`` []: global norm of the gradients.
        """
        shrink = jnp.minimum(1.0, self.max_grad_norm / (norm + 1e-6))
        clipped = {name: gradient * shrink for name, gradient in gradients.items()}
        updated = self.rule.update(weights, clipped, state, lr)

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(apply_update, new, old)

        return jax.tree.map(choose, updated, (dict(weights), state))
