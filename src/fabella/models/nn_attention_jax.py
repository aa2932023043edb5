"""Causal attention for training and for reading on: one formula for whole texts, chunks and single tokens."""

from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.errors import UsageError


class KeyValues(NamedTuple):
    """What one attention layer has read: room for S keys and values, filled from the left."""

    keys: Float[Array, "B K S E"]
    values: Float[Array, "B K S E"]

    @classmethod
    def empty(cls, batch: int, heads: int, capacity: int, head_dim: int) -> "KeyValues":
        """Room for ``capacity`` tokens of ``batch`` texts."""
        return cls(*(jnp.zeros((batch, heads, capacity, head_dim), jnp.float32) for _ in range(2)))

    def append(self, key: Float[Array, "B K T E"], value: Float[Array, "B K T E"], length: Array) -> "KeyValues":
        """With the new positions behind the first ``length``."""
        place = (0, 0, length, 0)
        return KeyValues(
            lax.dynamic_update_slice(self.keys, key.astype(self.keys.dtype), place),
            lax.dynamic_update_slice(self.values, value.astype(self.values.dtype), place),
        )


def require_room(tokens: int, limit: int, name: str) -> None:
    """Raises UsageError where ``tokens`` are more than the model's ``context``, or than a state's ``capacity``."""
    if tokens > limit:
        raise UsageError(
            f"{tokens} tokens are more than the {name} of {limit}.",
            fix=f"Read the last {limit} tokens only"
            + (", or start with a larger capacity." if name == "capacity" else "."),
        )


def split_heads(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T E"]:
    """D into heads × head dims."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def attend(
    query: Float[Array, "B H T E"],
    key: Float[Array, "B K T E"],
    value: Float[Array, "B K T E"],
    past: KeyValues | None,
    length: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B T D"], KeyValues | None]:
    """softmax(QKᵀ/√E) V: each position looks at itself and at everything before it, the ``length`` of ``past`` too.

    K key/value heads serve H queries, H/K neighbouring queries each (Ainslie et al. 2023, arXiv 2305.13245).
    """
    compute = query.dtype
    if past is not None:
        past = past.append(key, value, jnp.asarray(length))
        key, value = past.keys.astype(compute), past.values.astype(compute)
    batch, heads, new, head_dim = query.shape
    shared = query.reshape(batch, key.shape[1], -1, new, head_dim)
    scores = jnp.einsum("bkgte,bkse->bkgts", shared, key, preferred_element_type=jnp.float32) * head_dim**-0.5
    # Row i of the new positions sees the first (length + i + 1) keys; what lies beyond was never written.
    seen = jnp.arange(key.shape[2]) <= jnp.arange(new)[:, None] + length
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1).astype(compute)
    mixed = jnp.einsum("bkgts,bkse->btkge", weights, value)
    return mixed.reshape(batch, new, heads * head_dim), past
