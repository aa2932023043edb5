"""Causal attention: over whole texts, as in training, and for reading on from what was read, by one formula.

Over a whole text it goes a stretch of queries at a time, so that nothing is computed for most of the keys that lie
ahead of them, and keeps no weights for the way back, but forms them again from one number a query (Dao et al. 2022,
arXiv 2205.14135, section 3.1).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.errors import UsageError

STRETCH = 128
"""Queries at a time over a whole text; measured on a CPU (docs/log.md)."""


class KVCache(NamedTuple):
    """What one attention layer has read: room for S keys and values, filled from the left."""

    keys: Float[Array, "B K S E"]
    values: Float[Array, "B K S E"]

    @classmethod
    def empty(cls, batch: int, heads: int, capacity: int, head_dim: int) -> "KVCache":
        """Room for ``capacity`` tokens of ``batch`` texts."""
        return cls(*(jnp.zeros((batch, heads, capacity, head_dim), jnp.float32) for _ in range(2)))

    def append(self, key: Float[Array, "B K T E"], value: Float[Array, "B K T E"], length: Array) -> "KVCache":
        """With the new positions behind the first ``length``."""
        place = (0, 0, length, 0)
        return KVCache(
            lax.dynamic_update_slice(self.keys, key.astype(self.keys.dtype), place),
            lax.dynamic_update_slice(self.values, value.astype(self.values.dtype), place),
        )


def require_capacity(tokens: int, limit: int, name: str) -> None:
    """Raises UsageError where ``tokens`` are more than the model's ``context``, or than a state's ``capacity``."""
    if tokens > limit:
        raise UsageError(
            f"{tokens} tokens are more than the {name} of {limit}.",
            hint=f"Read the last {limit} tokens only"
            + (", or start with a larger capacity." if name == "capacity" else "."),
        )


def split_heads(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T E"]:
    """D into heads × head dims."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def attend(
    query: Float[Array, "B H T E"],
    key: Float[Array, "B K T E"],
    value: Float[Array, "B K T E"],
    past: KVCache | None,
    length: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """softmax(QKᵀ/√E) V: each position looks at itself and at everything before it, the ``length`` of ``past`` too.

    K key/value heads serve H queries, H/K neighbouring queries each (Ainslie et al. 2023, arXiv 2305.13245).
    """
    batch, heads, new, head_dim = query.shape
    shared = query.reshape(batch, key.shape[1], -1, new, head_dim)
    if past is None:
        mixed = over_whole_text(shared, key, value)
    else:
        past = past.append(key, value, jnp.asarray(length))
        key, value = past.keys.astype(query.dtype), past.values.astype(query.dtype)
        # Row i of the new positions sees the first (length + i + 1) keys; what lies beyond was never written.
        seen = jnp.arange(key.shape[2]) <= jnp.arange(new)[:, None] + length
        mixed = _mixed(_scores(shared, key, seen), value)[0]
    return jnp.moveaxis(mixed, 3, 1).reshape(batch, new, heads * head_dim), past


@jax.custom_vjp
def over_whole_text(
    query: Float[Array, "B K G T E"], key: Float[Array, "B K T E"], value: Float[Array, "B K T E"]
) -> Float[Array, "B K G T E"]:
    """What each position sees, of G queries that share a key and a value."""
    return _forward(query, key, value)[0]


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    found = [_mixed(scores, value[:, :, :end]) for _, end, scores in _stretches(query, key)]
    mixed, totals = (jnp.concatenate(parts, 3) for parts in zip(*found, strict=True))
    return mixed, (query, key, value, mixed, totals)


def _backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, mixed, totals = kept
    exact: Any = {"preferred_element_type": jnp.float32}
    # Of a softmax: weight · (its gradient − the mean of all gradients, weighted alike).
    mean = jnp.sum(gradient.astype(jnp.float32) * mixed.astype(jnp.float32), -1, keepdims=True)
    to_query: list[Array] = []
    to_key, to_value = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    for start, end, scores in _stretches(query, key):
        given = gradient[..., start:end, :]
        weights = jnp.exp(scores - totals[..., start:end, :])
        to_weights = jnp.einsum("bkgte,bkse->bkgts", given, value[:, :, :end], **exact)
        to_scores = (weights * (to_weights - mean[..., start:end, :]) * query.shape[-1] ** -0.5).astype(query.dtype)
        to_query.append(jnp.einsum("bkgts,bkse->bkgte", to_scores, key[:, :, :end]))
        here = jnp.einsum("bkgts,bkgte->bkse", to_scores, query[..., start:end, :], **exact)
        to_key = to_key.at[:, :, :end].add(here)
        here = jnp.einsum("bkgts,bkgte->bkse", weights.astype(value.dtype), given, **exact)
        to_value = to_value.at[:, :, :end].add(here)
    return jnp.concatenate(to_query, 3), to_key.astype(key.dtype), to_value.astype(value.dtype)


over_whole_text.defvjp(_forward, _backward)


def _stretches(query: Array, key: Array) -> Iterator[tuple[int, int, Array]]:
    """Where each stretch of queries begins and ends, and its scores against all keys up to its end."""
    for start in range(0, query.shape[3], STRETCH):
        end = min(start + STRETCH, query.shape[3])
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        yield start, end, _scores(query[..., start:end, :], key[:, :, :end], seen)


def _scores(query: Array, key: Array, seen: Array) -> Array:
    scores = jnp.einsum("bkgte,bkse->bkgts", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    return jnp.where(seen, scores, -jnp.inf)


def _mixed(scores: Array, value: Array) -> tuple[Array, Array]:
    """softmax(scores) · value, and the logarithm of what the softmax divides by."""
    top = scores.max(-1, keepdims=True)
    raised = jnp.exp(scores - top)
    total = raised.sum(-1, keepdims=True)
    mixed = jnp.einsum("bkgts,bkse->bkgte", raised.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / total).astype(value.dtype), top + jnp.log(total)
