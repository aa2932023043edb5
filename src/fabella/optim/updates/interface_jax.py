"""The interface of an optimizer for JAX."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from jax import Array

Arrays = Mapping[str, Array]


class OptimizerState(NamedTuple):
    """The arrays of the optimizer's ``state_spec``, and the number of applied updates."""

    arrays: dict[str, Array]
    updates: Array
    """[], int32; skipped steps do not count"""


class JaxOptimizer(Protocol):
    """``NAME_jax.create_optimizer(table, config)`` returns one: hashable, because a step is compiled for it."""

    def update(
        self, weights: Arrays, gradients: Arrays, state: OptimizerState, lr: Array
    ) -> tuple[dict[str, Array], OptimizerState]:
        """Return weights and state after one more update; ``lr`` []: the step's learning rate before any factor.

        The engine has clipped the gradients, and drops the result of a non-finite step.
        """
        ...
