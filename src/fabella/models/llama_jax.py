"""Llama in JAX; what it is stands in llama.py."""

from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.llama import Config
from fabella.models.nn.attention_jax import KVCache, attend, require_capacity, split_heads
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, linear, rms_norm, swiglu


class RotaryTable(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Array, "T P"]
    sin: Float[Array, "T P"]


class State(NamedTuple):
    layers: list[KVCache]
    length: Int[Array, ""]


def rotary_table(config: Config, start: Array | int, length: int) -> RotaryTable:
    """Pair p turns by base^(−2p/E) a position (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    head_dim = config.dim // config.heads
    pairs = jnp.arange(0, head_dim, 2, dtype=jnp.float32)
    frequencies = jnp.float32(config.rotary_base) ** (-pairs / head_dim)
    rotary_complex = jnp.outer((jnp.arange(length) + start).astype(jnp.float32), frequencies)
    return RotaryTable(jnp.cos(rotary_complex), jnp.sin(rotary_complex))


def apply_rotary(x: Float[Array, "B H T E"], by: RotaryTable) -> Float[Array, "B H T E"]:
    """Turns dim i together with dim i + E/2: the order in which HF keeps Llama's weights."""
    first, second = jnp.split(x, 2, axis=3)
    turned = jnp.concatenate((first * by.cos - second * by.sin, second * by.cos + first * by.sin), axis=3)
    return turned.astype(x.dtype)


def attention(
    part: Params,
    config: Config,
    x: Float[Array, "B T D"],
    by: RotaryTable,
    kv_cache: KVCache | None,
    length: Array | int,
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Every position asks all positions up to its own; heads/kv_heads queries share a key and a value."""
    query = apply_rotary(split_heads(linear(part.scope("query"), x), config.heads), by)
    key = apply_rotary(split_heads(linear(part.scope("key"), x), config.kv_heads), by)
    value = split_heads(linear(part.scope("value"), x), config.kv_heads)
    attn_out, kv_cache = attend(query, key, value, kv_cache, length)
    return linear(part.scope("output"), attn_out), kv_cache


class Model(CausalLM):
    """The embedding, the blocks, a last norm, the head."""

    config: Config

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, part: Params, x: Float[Array, "B T D"], by: RotaryTable, kv_cache: KVCache | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attention, then SwiGLU: each reads the normed stream and adds to it."""
        c = self.config
        normed = rms_norm(x, part["attention_norm.weight"], c.norm_eps)
        attn_out, kv_cache = attention(part.scope("attention"), c, normed, by, kv_cache, length)
        x = x + dropout(part, "attention", attn_out, c.dropout)
        ffn_out = swiglu(part.scope("feed_forward"), rms_norm(x, part["feed_forward_norm.weight"], c.norm_eps))
        return x + dropout(part, "feed_forward", ffn_out, c.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        require_capacity(time, self.config.context_length, "context")
        rotary = rotary_table(self.config, length, time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens), self.config.dropout)
        layers: list[KVCache] = []
        for layer in range(self.config.layers):
            x, kv_cache = apply_block(
                params, layer, self.block, x, rotary, state.layers[layer] if state else None, length
            )
            layers.append(kv_cache)
        x = rms_norm(x, params["norm.weight"], self.config.norm_eps)
        return x, State(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache.empty(batch_size, c.kv_heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
