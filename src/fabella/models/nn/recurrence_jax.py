"""MinGRU: the recurrence h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, whole texts and single tokens alike.

The same formula as in nn_recurrence_torch.py. Over a whole text it is one of two algorithms, by the device: step by
step, or all steps at once in log₂ T rounds (Blelloch 1990). On a CPU the first takes a third of the time (docs/log.md);
elsewhere neither has been measured, and the second is taken for its few rounds.
"""

from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

from fabella.models.nn.layers_jax import Params, linear


def mingru(
    part: Params, x: Float[Array, "B T D"], before: Float[Array, "B S"] | None = None
) -> tuple[Float[Array, "B T D"], Float[Array, "B S"]]:
    """Output at every position and the last hidden state; ``before`` is the one to go on from, 0 where None.

    Gate and candidate look at the input alone (Feng et al. 2024, arXiv 2410.01201, section 3.1).
    """
    gate, candidate = linear(part.scope("gate"), x), linear(part.scope("candidate"), x)
    if before is None:
        before = jnp.zeros((gate.shape[0], gate.shape[2]), jnp.float32)
    hidden = recur(gate, candidate, before)
    output = linear(part.scope("output"), hidden) if f"{part.prefix}output.weight" in part.weights else hidden
    return output, hidden[:, -1]


def recur(
    gate: Float[Array, "B T S"], candidate: Float[Array, "B T S"], before: Float[Array, "B S"]
) -> Float[Array, "B T S"]:
    """All h_t, with z = σ(gate), h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below; h_{−1} = ``before``.

    Computed in float32, whatever the precision of the inputs.
    """
    gate, candidate = gate.astype(jnp.float32), candidate.astype(jnp.float32)
    z, keep = jax.nn.sigmoid(gate), jax.nn.sigmoid(-gate)  # 1 − z has no digits near 1
    towards = jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
    if gate.shape[1] == 1:
        return keep * before[:, None] + z * towards
    return decay_and_add(keep, z * towards, before)


@jax.custom_vjp
def decay_and_add(
    keep: Float[Array, "B T S"], new: Float[Array, "B T S"], before: Float[Array, "B S"]
) -> Float[Array, "B T S"]:
    """h_t = keep_t · h_{t−1} + new_t."""
    new = new.at[:, 0].add(keep[:, 0] * before)
    return lax.platform_dependent(keep, new, cpu=step_by_step, default=all_at_once)


def step_by_step(keep: Float[Array, "B T S"], new: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """h_t = keep_t · h_{t−1} + new_t with h_{−1} = 0, in order of time."""

    def step(last: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden = now[0] * last + now[1]
        return hidden, hidden

    by_time = keep.swapaxes(0, 1), new.swapaxes(0, 1)
    return lax.scan(step, jnp.zeros_like(new[:, 0]), by_time)[1].swapaxes(0, 1)


def all_at_once(keep: Float[Array, "B T S"], new: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """The same: two stretches of time join to one, h → keep₂·keep₁·h + (keep₂·new₁ + new₂), in any order."""

    def joined(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    return lax.associative_scan(joined, (keep, new), axis=1)[1]


def _forward(keep: Array, new: Array, before: Array) -> tuple[Array, Any]:
    hidden = decay_and_add(keep, new, before)
    return hidden, (keep, hidden, before)


def _backward(kept: Any, gradient: Array) -> tuple[Array, Array, Array]:
    """The gradient of h_t and all that follows from it: total_t = gradient_t + keep_{t+1} · total_{t+1}."""
    keep, hidden, before = kept
    last = jnp.zeros_like(before)
    following = jnp.concatenate([keep[:, 1:], jnp.zeros_like(keep[:, :1])], 1)
    total = decay_and_add(following[:, ::-1], gradient[:, ::-1], last)[:, ::-1]
    earlier = jnp.concatenate([before[:, None], hidden[:, :-1]], 1)
    return total * earlier, total, total[:, 0] * keep[:, 0]


decay_and_add.defvjp(_forward, _backward)
