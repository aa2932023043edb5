"""Causal attention over whole sequences, as in training, and over new tokens with a KV cache, by one formula.

A whole sequence is processed in chunks of queries, which skips most of the masked keys. The backward pass recomputes
the attention weights from one number per query instead of storing them (Dao et al. 2022, arXiv 2205.14135,
section 3.1).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from fabella.models.nn.hooks_jax import is_observed, report

QUERY_CHUNK = 128
"""Queries per chunk of a sequence; the fastest number on a CPU (docs/log.md)."""


class KVCache(NamedTuple):
    """Keys and values of one attention layer, with a capacity of S tokens, filled from the left."""

    keys: Float[Array, "B K S E"]
    values: Float[Array, "B K S E"]

    @classmethod
    def empty(cls, batch: int, heads: int, capacity: int, head_dim: int) -> "KVCache":
        """Allocate a cache for ``capacity`` tokens of ``batch`` sequences."""
        return cls(*(jnp.zeros((batch, heads, capacity, head_dim), jnp.float32) for _ in range(2)))

    def append(self, key: Float[Array, "B K T E"], value: Float[Array, "B K T E"], length: Array) -> "KVCache":
        """Return the cache with the time positions written after the first ``length``."""
        start = (0, 0, length, 0)
        return KVCache(
            lax.dynamic_update_slice(self.keys, key.astype(self.keys.dtype), start),
            lax.dynamic_update_slice(self.values, value.astype(self.values.dtype), start),
        )


class KVState(NamedTuple):
    """Decoding state of a model whose layers are all attention."""

    layers: list[KVCache]
    length: Int[Array, ""]
    """Tokens in every cache."""

    @classmethod
    def empty(cls, layers: int, batch_size: int, heads: int, capacity: int, head_dim: int) -> "KVState":
        """Allocate a cache of ``capacity`` tokens per sequence for each layer; ``heads`` have keys and values."""
        caches = [KVCache.empty(batch_size, heads, capacity, head_dim) for _ in range(layers)]
        return cls(caches, jnp.zeros((), jnp.int32))


def split_heads(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T E"]:
    """Split the dimension D into heads × head dimensions."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def attend(
    query: Float[Array, "B H T E"],
    key: Float[Array, "B K T E"],
    value: Float[Array, "B K T E"],
    past: KVCache | None,
    length: Int[Array, ""] | int = 0,
    document_starts: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Return softmax(QKᵀ/√E) V, causal, over the ``length`` tokens of ``past`` and the time ones, and the time cache.

    Each of the K key-value heads serves H/K consecutive query heads (Ainslie et al. 2023, arXiv 2305.13245).
    ``document_starts``: position at which the document of each position starts, below which it attends to nothing;
    None: 0. Not with ``past``.
    """
    batch, heads, time, head_dim = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, time, head_dim)
    if past is None:
        if is_observed():
            visible = _visible(0, time, document_starts)
            weights = jax.nn.softmax(_scores(grouped, key, visible), axis=-1)
            report("attention", weights.reshape(batch, heads, time, time))
        attn_out = causal_attention(grouped, key, value, document_starts)
    else:
        assert document_starts is None, "documents are masked in whole sequences only"
        past = past.append(key, value, jnp.asarray(length))
        key, value = past.keys.astype(query.dtype), past.values.astype(query.dtype)
        # New position i sees the first length + i + 1 keys; later slots of the cache are unwritten.
        visible = jnp.arange(key.shape[2]) <= jnp.arange(time)[:, None] + length
        attn_out = _weighted_values(_scores(grouped, key, visible), value)[0]
    return jnp.moveaxis(attn_out, 3, 1).reshape(batch, time, heads * head_dim), past


@jax.custom_vjp
def causal_attention(
    query: Float[Array, "B K G T E"],
    key: Float[Array, "B K T E"],
    value: Float[Array, "B K T E"],
    document_starts: Int[Array, "B T"] | None = None,
) -> Float[Array, "B K G T E"]:
    """Return causal attention over a whole sequence, for G queries that share a key and a value."""
    return _forward(query, key, value, document_starts)[0]


def _forward(query: Array, key: Array, value: Array, document_starts: Array | None) -> tuple[Array, tuple[Any, ...]]:
    scored = _query_chunks(query, key, document_starts)
    chunks = [_weighted_values(scores, value[:, :, :end]) for _, end, scores in scored]
    attn_out, totals = (jnp.concatenate(parts, 3) for parts in zip(*chunks, strict=True))
    return attn_out, (query, key, value, document_starts, attn_out, totals)


def _backward(saved: tuple[Any, ...], gradient: Array) -> tuple[Array, Array, Array, None]:
    query, key, value, document_starts, attn_out, totals = saved
    float32: Any = {"preferred_element_type": jnp.float32}
    # The gradient of a softmax is weight · (weight gradient − the weighted mean of all weight gradients).
    mean = jnp.sum(gradient.astype(jnp.float32) * attn_out.astype(jnp.float32), -1, keepdims=True)
    query_gradients: list[Array] = []
    key_gradient, value_gradient = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
    for start, end, scores in _query_chunks(query, key, document_starts):
        chunk_gradient = gradient[..., start:end, :]
        weights = jnp.exp(scores - totals[..., start:end, :])
        weights_gradient = jnp.einsum("bkgte,bkse->bkgts", chunk_gradient, value[:, :, :end], **float32)
        scores_gradient = (weights * (weights_gradient - mean[..., start:end, :]) * query.shape[-1] ** -0.5).astype(
            query.dtype
        )
        query_gradients.append(jnp.einsum("bkgts,bkse->bkgte", scores_gradient, key[:, :, :end]))
        chunk_sum = jnp.einsum("bkgts,bkgte->bkse", scores_gradient, query[..., start:end, :], **float32)
        key_gradient = key_gradient.at[:, :, :end].add(chunk_sum)
        chunk_sum = jnp.einsum("bkgts,bkgte->bkse", weights.astype(value.dtype), chunk_gradient, **float32)
        value_gradient = value_gradient.at[:, :, :end].add(chunk_sum)
    gradients = jnp.concatenate(query_gradients, 3), key_gradient.astype(key.dtype), value_gradient.astype(value.dtype)
    return *gradients, None


causal_attention.defvjp(_forward, _backward)


def _query_chunks(query: Array, key: Array, document_starts: Array | None) -> Iterator[tuple[int, int, Array]]:
    """Yield start and end of each chunk of queries, and its scores against all keys before the end."""
    for start in range(0, query.shape[3], QUERY_CHUNK):
        end = min(start + QUERY_CHUNK, query.shape[3])
        visible = _visible(start, end, document_starts)
        yield start, end, _scores(query[..., start:end, :], key[:, :, :end], visible)


def _visible(start: int, end: int, document_starts: Array | None) -> Array:
    """Return which of the first ``end`` keys each query from ``start`` on attends to, [t end] or [B 1 1 t end]."""
    visible = jnp.arange(end) <= jnp.arange(start, end)[:, None]
    return visible if document_starts is None else visible & document_mask(document_starts[:, start:end], end)


def document_mask(document_starts: Int[Array, "B T"], keys: int) -> Bool[Array, "B 1 1 T S"]:
    """Return which of S keys are not before the start of each query's document."""
    return jnp.arange(keys) >= document_starts[:, None, None, :, None]


def _scores(query: Array, key: Array, visible: Array) -> Array:
    scores = jnp.einsum("bkgte,bkse->bkgts", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    return jnp.where(visible, scores, -jnp.inf)


def _weighted_values(scores: Array, value: Array) -> tuple[Array, Array]:
    """Return softmax(scores) · value, and the logarithm of the denominator of the softmax."""
    max_score = scores.max(-1, keepdims=True)
    exponentials = jnp.exp(scores - max_score)
    total = exponentials.sum(-1, keepdims=True)
    attn_out = jnp.einsum(
        "bkgts,bkse->bkgte", exponentials.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    return (attn_out / total).astype(value.dtype), max_score + jnp.log(total)
