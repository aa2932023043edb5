"""MinGRU recurrence h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, for sequences and single tokens.

The formula is that of recurrence_torch.py. A sequence is scanned by one of two algorithms: on a CPU step by step, which
takes a third of the time there (docs/log.md); elsewhere in parallel, in log₂ T rounds (Blelloch 1990), because it needs
few of them. Neither has been measured on other devices.
"""

from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.nn.hooks_jax import report
from fabella.models.nn.layers_jax import Params, linear


def mingru(
    params: Params, x: Float[Array, "B T D"], initial: Float[Array, "B S"] | None = None
) -> tuple[Float[Array, "B T D"], Float[Array, "B S"]]:
    """Return the output at every position and the last hidden state; continues from ``initial`` (None: 0).

    Gate and candidate depend on the input only (Feng et al. 2024, arXiv 2410.01201, section 3.1).
    """
    gate, candidate = linear(params.scope("gate"), x), linear(params.scope("candidate"), x)
    if initial is None:
        initial = jnp.zeros((gate.shape[0], gate.shape[2]), jnp.float32)
    hidden = recur(gate, candidate, initial, params.document_starts)
    for name, value in (("gate", jax.nn.sigmoid(gate)), ("candidate", candidate_state(candidate)), ("state", hidden)):
        report(name, value)
    if f"{params.prefix}output.weight" in params.weights:
        return linear(params.scope("output"), hidden), hidden[:, -1]
    report(f"{params.prefix}output", hidden)
    return hidden, hidden[:, -1]


def recur(
    gate: Float[Array, "B T S"],
    candidate: Float[Array, "B T S"],
    initial: Float[Array, "B S"],
    document_starts: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T S"]:
    """Return all h_t for z = σ(gate), h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below; h_{−1} = ``initial``.

    Computed in float32 for any input dtype. ``document_starts``: position at which the document of each position
    starts; there, h_{t−1} is 0.
    """
    gate, candidate = gate.astype(jnp.float32), candidate.astype(jnp.float32)
    z, keep = jax.nn.sigmoid(gate), jax.nn.sigmoid(-gate)  # σ(−gate): 1 − z loses all digits for z near 1
    if document_starts is not None:
        keep = jnp.where((document_starts == jnp.arange(keep.shape[1]))[..., None], 0.0, keep)
    h_tilde = candidate_state(candidate)
    if gate.shape[1] == 1:
        return keep * initial[:, None] + z * h_tilde
    return linear_recurrence(keep, z * h_tilde, initial)


def candidate_state(candidate: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """Return h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below."""
    return jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))


@jax.custom_vjp
def linear_recurrence(
    keep: Float[Array, "B T S"], new: Float[Array, "B T S"], initial: Float[Array, "B S"]
) -> Float[Array, "B T S"]:
    """Return h_t = keep_t · h_{t−1} + new_t with h_{−1} = ``initial``, by the scan that suits the device."""
    new = new.at[:, 0].add(keep[:, 0] * initial)
    return lax.platform_dependent(keep, new, cpu=sequential_scan, default=parallel_scan)


def sequential_scan(keep: Float[Array, "B T S"], new: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """Return h_t = keep_t · h_{t−1} + new_t with h_{−1} = 0, in time order."""

    def step(last: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden = now[0] * last + now[1]
        return hidden, hidden

    by_time = keep.swapaxes(0, 1), new.swapaxes(0, 1)
    return lax.scan(step, jnp.zeros_like(new[:, 0]), by_time)[1].swapaxes(0, 1)


def parallel_scan(keep: Float[Array, "B T S"], new: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
    """Return the same in log₂ T rounds: two intervals combine to h → keep₂·keep₁·h + (keep₂·new₁ + new₂)."""

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    return lax.associative_scan(combine, (keep, new), axis=1)[1]


def _forward(keep: Array, new: Array, initial: Array) -> tuple[Array, Any]:
    hidden = linear_recurrence(keep, new, initial)
    return hidden, (keep, hidden, initial)


def _backward(saved: Any, gradient: Array) -> tuple[Array, Array, Array]:
    """Accumulate the gradient of h_t over all later steps: total_t = gradient_t + keep_{t+1} · total_{t+1}."""
    keep, hidden, initial = saved
    last = jnp.zeros_like(initial)
    following = jnp.concatenate([keep[:, 1:], jnp.zeros_like(keep[:, :1])], 1)
    total = linear_recurrence(following[:, ::-1], gradient[:, ::-1], last)[:, ::-1]
    earlier = jnp.concatenate([initial[:, None], hidden[:, :-1]], 1)
    return total * earlier, total, total[:, 0] * keep[:, 0]


linear_recurrence.defvjp(_forward, _backward)
