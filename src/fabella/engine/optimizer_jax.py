"""AdamW and Adam for JAX, as PyTorch takes their steps: built from the parameter table, their memory plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax
from jax import Array
from jax import numpy as jnp

from fabella.config import Adam, AdamW, Muon
from fabella.errors import ConfigError
from fabella.models.parameters import Table

Arrays = Mapping[str, Array]


class Memory(NamedTuple):
    """What Adam remembers: both moments of every weight, and the updates that were taken (without skipped ones)."""

    first: dict[str, Array]
    second: dict[str, Array]
    updates: Array


@dataclass(frozen=True)
class Optimizer:
    """Adam's update with decoupled weight decay where the table says so; ``clip`` is a global gradient norm."""

    betas: tuple[float, float]
    eps: float
    clip: float
    weight_decay: float
    decaying: frozenset[str]

    @classmethod
    def of(cls, table: Table, section: AdamW | Adam | Muon) -> "Optimizer":
        """Raises ConfigError for an optimizer that this engine does not have."""
        if isinstance(section, Muon):
            raise ConfigError("optimizer.kind = muon is not there with engine=jax.", fix="Use adamw, or engine=torch.")
        decay = section.weight_decay if isinstance(section, AdamW) else 0.0
        decaying = frozenset(name for name, parameter in table.items() if parameter.decay)
        return cls(section.betas, section.eps, section.clip, decay, decaying)

    def update(self, weights: Arrays, gradients: Arrays, memory: Memory, lr: Array, norm: Array) -> tuple[Any, Memory]:
        """Weights and memory after a step; as they were where ``norm`` (of all gradients, []) is not finite."""
        shrink = jnp.minimum(1.0, self.clip / (norm + 1e-6))
        clipped = {name: gradient * shrink for name, gradient in gradients.items()}
        adam: Any = optax.scale_by_adam(*self.betas, eps=self.eps)
        before = optax.ScaleByAdamState(memory.updates, memory.first, memory.second)
        steps, after = adam.update(clipped, before)
        moved = {name: weights[name] - lr * self._with_decay(name, weights[name], steps[name]) for name in weights}
        taken = Memory(after.mu, after.nu, after.count)
        finite = jnp.isfinite(norm)

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(finite, new, old)

        return jax.tree.map(kept, (moved, taken), (dict(weights), memory))

    def _with_decay(self, name: str, weight: Array, step: Array) -> Array:
        return step + self.weight_decay * weight if name in self.decaying else step
