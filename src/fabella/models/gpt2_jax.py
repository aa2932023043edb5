"""GPT-2 in JAX; what it is stands in gpt2.py."""

from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.gpt2 import Config
from fabella.models.nn.attention_jax import KVCache, attend, require_capacity, split_heads
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, layer_norm, linear


class State(NamedTuple):
    layers: list[KVCache]
    length: Int[Array, ""]


def attention(
    part: Params, config: Config, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Every position asks all positions up to its own, in each head for something else."""
    query, key, value = (split_heads(linear(part.scope(name), x), config.heads) for name in ("query", "key", "value"))
    attn_out, kv_cache = attend(query, key, value, kv_cache, length)
    return linear(part.scope("output"), attn_out), kv_cache


def feed_forward(part: Params, config: Config, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """down(GELU(up x)), at each position by itself."""
    approximate = config.activation == "gelu_tanh"
    return linear(part.scope("down"), jax.nn.gelu(linear(part.scope("up"), x), approximate=approximate))


class Model(CausalLM):
    """Token and position embeddings, the blocks, a last norm, the head."""

    config: Config

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, part: Params, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attention, then feed-forward: each reads the normed stream and adds to it."""
        c = self.config
        attn_out, kv_cache = attention(
            part.scope("attention"), c, layer_norm(part.scope("attention_norm"), x), kv_cache, length
        )
        x = x + dropout(part, "attention", attn_out, c.dropout)
        ffn_out = feed_forward(part.scope("feed_forward"), c, layer_norm(part.scope("feed_forward_norm"), x))
        return x + dropout(part, "feed_forward", ffn_out, c.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        require_capacity(time, self.config.context_length, "context")
        positions = lax.dynamic_slice_in_dim(params["positions.weight"], length, time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens) + positions, self.config.dropout)
        layers: list[KVCache] = []
        for layer in range(self.config.layers):
            x, kv_cache = apply_block(params, layer, self.block, x, state.layers[layer] if state else None, length)
            layers.append(kv_cache)
        return layer_norm(params.scope("norm"), x), State(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache.empty(batch_size, c.heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
