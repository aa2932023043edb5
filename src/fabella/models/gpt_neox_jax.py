"""GPT-NeoX in JAX; gpt_neox.py describes the architecture."""

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.gpt_neox import Config
from fabella.models.nn.attention_jax import KVCache, KVState, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, layer_norm, linear
from fabella.models.nn.rotary_jax import RotaryTable, apply_rotary, rotary_table


def rotate_first_dims(x: Float[Array, "B H T E"], rotary: RotaryTable) -> Float[Array, "B H T E"]:
    """Rotate the first 2·P dimensions of each head, i with i + P; the other dimensions stay."""
    rotated, passed = jnp.split(x, [2 * rotary.cos.shape[1]], axis=3)
    return jnp.concatenate((apply_rotary(rotated, rotary), passed), axis=3)


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def attention(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Causal multi-head self-attention with biases."""
        heads = self.config.heads
        query, key, value = (split_heads(linear(params.scope(name), x), heads) for name in ("query", "key", "value"))
        query, key = rotate_first_dims(query, rotary), rotate_first_dims(key, rotary)
        attn_out, kv_cache = attend(query, key, value, kv_cache, length, params.document_starts)
        return linear(params.scope("output"), attn_out), kv_cache

    def block(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Attention and a GELU MLP, both of the block's input, added to the residual stream."""
        c, mlp = self.config, params.scope("feed_forward")
        normed = layer_norm(params.scope("attention_norm"), x, c.norm_eps)
        attn_out, kv_cache = self.attention(params.scope("attention"), normed, rotary, kv_cache, length)
        up = linear(mlp.scope("up"), layer_norm(params.scope("feed_forward_norm"), x, c.norm_eps))
        ffn_out = linear(mlp.scope("down"), jax.nn.gelu(up, approximate=c.activation == "gelu_tanh"))
        x = x + dropout(params, "attention", attn_out, c.dropout)
        return x + dropout(params, "feed_forward", ffn_out, c.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: KVState | None = None
    ) -> tuple[Float[Array, "B T D"], KVState | None]:
        c, length, time = self.config, (state.length if state else 0), tokens.shape[1]
        require_capacity(time, c.context_length, "context")
        rotary = rotary_table(c.rotary_dims, c.rotary_base, length, time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens), c.dropout)
        layers: list[KVCache] = []
        for layer in range(c.layers):
            cache = state.layers[layer] if state else None
            x, cache = apply_block(params, layer, self.block, x, rotary, cache, length)
            layers.append(cache)
        x = layer_norm(params.scope("norm"), x, c.norm_eps)
        return x, KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.heads, capacity, c.dim // c.heads)
