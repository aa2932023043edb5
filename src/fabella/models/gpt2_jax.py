"""GPT-2 in JAX; gpt2.py describes the architecture."""

import jax
from jax import Array, lax
from jaxtyping import Float, Int

from fabella.models.gpt2 import Config
from fabella.models.nn.attention_jax import KVCache, KVState, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, layer_norm, linear


def attention(
    params: Params, config: Config, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Causal multi-head self-attention."""
    query, key, value = (split_heads(linear(params.scope(name), x), config.heads) for name in ("query", "key", "value"))
    attn_out, kv_cache = attend(query, key, value, kv_cache, length, params.document_starts)
    return linear(params.scope("output"), attn_out), kv_cache


def feed_forward(params: Params, config: Config, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """MLP with one hidden layer: down(GELU(up x))."""
    approximate = config.activation == "gelu_tanh"
    return linear(params.scope("down"), jax.nn.gelu(linear(params.scope("up"), x), approximate=approximate))


class Model(CausalLM):
    """Token and position embeddings, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, params: Params, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Pre-norm attention, then a pre-norm GELU MLP, each added to the residual stream."""
        c = self.config
        normed = layer_norm(params.scope("attention_norm"), x)
        attn_out, kv_cache = attention(params.scope("attention"), c, normed, kv_cache, length)
        x = x + dropout(params, "attention", attn_out, c.dropout)
        ffn_out = feed_forward(params.scope("feed_forward"), c, layer_norm(params.scope("feed_forward_norm"), x))
        return x + dropout(params, "feed_forward", ffn_out, c.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: KVState | None = None
    ) -> tuple[Float[Array, "B T D"], KVState | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        require_capacity(time, self.config.context_length, "context")
        positions = lax.dynamic_slice_in_dim(params["positions.weight"], length, time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens) + positions, self.config.dropout)
        layers: list[KVCache] = []
        for layer in range(self.config.layers):
            x, kv_cache = apply_block(params, layer, self.block, x, state.layers[layer] if state else None, length)
            layers.append(kv_cache)
        return layer_norm(params.scope("norm"), x), KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.heads, capacity, c.dim // c.heads)
