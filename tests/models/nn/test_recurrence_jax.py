"""Tests that both algorithms of the MinGRU recurrence in JAX match a loop, gradients included."""

from typing import Any

import jax
import numpy as np
import pytest
from jax import Array
from jax import numpy as jnp

from fabella.models.nn.recurrence_jax import linear_recurrence, parallel_scan, recur, sequential_scan

# float32 sums over forty steps in another order.
TOLERANCE = 2e-6


def random(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("time", [1, 2, 7, 40])
def test_sequential_and_parallel_scan_agree(time: int) -> None:
    keep, new = jax.nn.sigmoid(random(2, time, 5)), random(2, time, 5, seed=1)
    np.testing.assert_allclose(sequential_scan(keep, new), parallel_scan(keep, new), atol=TOLERANCE)


def test_linear_recurrence_matches_a_loop() -> None:
    keep, new, last = jax.nn.sigmoid(random(2, 9, 5)), random(2, 9, 5, seed=1), random(2, 5, seed=2)
    hidden = linear_recurrence(keep, new, last)
    for t in range(9):
        last = keep[:, t] * last + new[:, t]
        np.testing.assert_allclose(hidden[:, t], last, atol=TOLERANCE)


def test_gradients_match_those_of_the_loop() -> None:
    def loop(keep: Array, new: Array, last: Array) -> Array:
        hidden_states = []
        for t in range(6):
            last = keep[:, t] * last + new[:, t]
            hidden_states.append(last)
        return jnp.stack(hidden_states, 1)

    inputs = jax.nn.sigmoid(random(2, 6, 5)), random(2, 6, 5, seed=1), random(2, 5, seed=2)
    weight = random(2, 6, 5, seed=3)

    def gradients(function: Any) -> tuple[Array, ...]:
        return jax.grad(lambda *x: (function(*x) * weight).sum(), argnums=(0, 1, 2))(*inputs)

    for actual, expected in zip(gradients(linear_recurrence), gradients(loop), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_large_inputs_do_not_overflow() -> None:
    gate, candidate = 100.0 * random(1, 8, 4), 100.0 * random(1, 8, 4, seed=1)
    gradients = jax.grad(lambda *x: recur(*x).sum(), argnums=(0, 1))(gate, candidate, jnp.zeros((1, 4)))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
