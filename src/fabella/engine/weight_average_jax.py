"""The average of the weights of a training with JAX."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.config.optimizer import AverageConfig
from fabella.engine.device_jax import Sharding
from fabella.engine.weight_average import AverageRule
from fabella.models.parameters import ParameterTable


class AverageState(NamedTuple):
    """The average between two steps; a step reuses its memory."""

    arrays: dict[str, Array]
    averaged: Array
    """Number of weights in the average, [], int32"""


class WeightAverage:
    """Average of the trained weights in float32, distributed over the devices as they are."""

    def __init__(self, sharding: Sharding, table: ParameterTable, config: AverageConfig) -> None:
        """``table``: the trained parameters; frozen parameters need no average."""
        self.sharding, self.rule = sharding, AverageRule.create(config)
        self.shapes = {name: parameter.shape for name, parameter in table.items()} if self.rule else {}
        self.restore({}, {})

    @property
    def count(self) -> int:
        """Number of weights in the average. Waits for the device."""
        return int(self.after.averaged)

    def update(self, step: int, weights: Mapping[str, Array], applied: Array) -> None:
        """Add the weights after ``step`` to the average where ``applied`` ([], bool) is True; no wait."""
        if self.rule is not None and step > self.rule.start:
            trained = {name: weights[name] for name in self.shapes}
            self.after = _add(self.rule, self.sharding, self.after, trained, applied)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the full arrays, empty before the average begins. A collective of all processes."""
        return {name: self.sharding.gather(array) for name, array in self.after.arrays.items()} if self.count else {}

    def scalars(self) -> dict[str, int | float]:
        """Return the numbers for a checkpoint. Waits for the device."""
        return self.rule.scalars(self.count) if self.rule else {}

    def restore(self, average: Mapping[str, NDArray[np.float32]], scalars: Mapping[str, int | float]) -> None:
        """Continue from what ``state`` and ``scalars`` returned, or begin again after another kind of average."""
        count = self.rule.saved_count(average, scalars) if self.rule else 0
        arrays = {name: average[name] if count else np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        on_all = self.sharding.put(np.asarray(count, np.int32), self.sharding.spec(()))
        self.after = AverageState(self.sharding.place(arrays), on_all)
        """The average after the latest step"""


# Not a part of the training step: XLA would fuse both, and an average would change the rounding of the weights.
@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _add(
    rule: AverageRule, sharding: Sharding, before: AverageState, weights: dict[str, Array], applied: Array
) -> AverageState:
    share = jnp.maximum(rule.min_share, rule.warm_up / (rule.warm_up + before.averaged))
    arrays = {
        name: jnp.where(applied, array + share * (weights[name] - array), array)
        for name, array in before.arrays.items()
    }
    if sharding.size > 1:  # otherwise the next step would see another sharding and be compiled again
        arrays = {
            name: lax.with_sharding_constraint(array, sharding.spec(array.shape)) for name, array in arrays.items()
        }
    return AverageState(arrays, before.averaged + applied)
