"""AdamW and Adam for JAX, as PyTorch takes their steps: built from the parameter table, their memory plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax
from jax import Array
from jax import numpy as jnp

from fabella.config.optimizer import Adam, AdamW, Muon
from fabella.engine.optim.param_groups import ParamSettings, param_settings
from fabella.errors import ConfigError
from fabella.models.parameters import ParameterTable

Arrays = Mapping[str, Array]


class OptimizerState(NamedTuple):
    """What Adam remembers: both moments of every weight, and the updates that were taken (without skipped ones)."""

    first: dict[str, Array]
    second: dict[str, Array]
    updates: Array


@dataclass(frozen=True)
class Optimizer:
    """Adam's update, each weight with the rate and the decay of its group; ``clip`` is a global gradient norm."""

    betas: tuple[float, float]
    eps: float
    clip: float
    settings: tuple[tuple[str, ParamSettings], ...]
    """By name; a tuple, because a step is compiled for it."""

    @classmethod
    def of(cls, table: ParameterTable, section: AdamW | Adam | Muon) -> "Optimizer":
        """Raises ConfigError for an optimizer that this engine does not have."""
        if isinstance(section, Muon):
            raise ConfigError("optimizer.kind = muon is not there with engine=jax.", hint="Use adamw, or engine=torch.")
        settings = tuple(param_settings(table, section).items())
        return cls(section.betas, section.eps, section.max_grad_norm, settings)

    def update(
        self, weights: Arrays, gradients: Arrays, memory: OptimizerState, lr: Array, *, norm: Array, taken: Array
    ) -> tuple[Any, OptimizerState]:
        """Weights and memory after a step; as they were where it is not ``taken`` []. ``norm`` []: of all gradients."""
        shrink = jnp.minimum(1.0, self.clip / (norm + 1e-6))
        clipped = {name: gradient * shrink for name, gradient in gradients.items()}
        adam: Any = optax.scale_by_adam(*self.betas, eps=self.eps)
        before = optax.ScaleByAdamState(memory.updates, memory.first, memory.second)
        steps, after = adam.update(clipped, before)
        moved = {name: _moved(weights[name], steps[name], lr, own) for name, own in self.settings}

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(taken, new, old)

        return jax.tree.map(kept, (moved, OptimizerState(after.mu, after.nu, after.count)), (dict(weights), memory))


def _moved(weight: Array, step: Array, lr: Array, own: ParamSettings) -> Array:
    decayed = step + own.weight_decay * weight if own.weight_decay else step
    return weight - lr * own.lr_factor * decayed
