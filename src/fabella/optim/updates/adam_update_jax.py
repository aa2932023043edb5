"""Adam's update with decoupled weight decay for JAX, as PyTorch's AdamW takes it."""

from dataclasses import dataclass
from typing import Any, final

import optax
from jax import Array

from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.interface_jax import Arrays, JaxOptimizer, OptimizerState


@final
@dataclass(frozen=True)
class AdamUpdate(JaxOptimizer):
    """AdamW with a learning-rate factor and a weight decay per parameter; without any decay it is Adam."""

    betas: tuple[float, float]
    eps: float
    settings: tuple[tuple[str, ParamSettings], ...]
    """By parameter name; a tuple, because it must be hashable."""

    def update(
        self, weights: Arrays, gradients: Arrays, state: OptimizerState, lr: Array
    ) -> tuple[dict[str, Array], OptimizerState]:
        first, second = ({name: state.arrays[f"{moment}.{name}"] for name in weights} for moment in ("first", "second"))
        adam: Any = optax.scale_by_adam(*self.betas, eps=self.eps)
        steps, after = adam.update(dict(gradients), optax.ScaleByAdamState(state.updates, first, second))
        new = {name: _updated(weights[name], steps[name], lr, settings) for name, settings in self.settings}
        arrays = {f"first.{name}": array for name, array in after.mu.items()}
        arrays |= {f"second.{name}": array for name, array in after.nu.items()}
        return new, OptimizerState(arrays, after.count)


def _updated(weight: Array, step: Array, lr: Array, settings: ParamSettings) -> Array:
    decayed = step + settings.weight_decay * weight if settings.weight_decay else step
    return weight - lr * settings.lr_factor * decayed
