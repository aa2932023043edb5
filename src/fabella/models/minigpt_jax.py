"""MiniGPT in JAX; minigpt.py describes the architecture."""

from jax import Array
from jaxtyping import Float, Int

from fabella.models.minigpt import Config
from fabella.models.nn.attention_jax import KVCache, KVState, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, layer_norm, linear, swiglu
from fabella.models.nn.rotary_jax import RotaryTable, apply_rotary_interleaved, rotary_table


def attention(
    params: Params,
    config: Config,
    x: Float[Array, "B T D"],
    rotary: RotaryTable,
    kv_cache: KVCache | None,
    length: Array | int,
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Causal multi-head self-attention; the rotary embedding covers a part of each head."""
    query, key, value = (split_heads(linear(params.scope(name), x), config.heads) for name in ("query", "key", "value"))
    query, key = apply_rotary_interleaved(query, rotary), apply_rotary_interleaved(key, rotary)
    attn_out, kv_cache = attend(query, key, value, kv_cache, length, params.document_starts)
    return linear(params.scope("output"), attn_out), kv_cache


class Model(CausalLM):
    """A factorized embedding projected up to the model's width, the blocks, and the same embedding as head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight"]

    def block(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""
        normed = layer_norm(params.scope("attention_norm"), x)
        attn_out, kv_cache = attention(params.scope("attention"), self.config, normed, rotary, kv_cache, length)
        x = x + dropout(params, "attention", attn_out, self.config.dropout)
        ffn_out = swiglu(params.scope("feed_forward"), layer_norm(params.scope("feed_forward_norm"), x))
        return x + dropout(params, "feed_forward", ffn_out, self.config.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: KVState | None = None
    ) -> tuple[Float[Array, "B T D"], KVState | None]:
        """Return [B T embedding]: projected down to the width of the embedding, which is the head."""
        length, time = (state.length if state else 0), tokens.shape[1]
        require_capacity(time, self.config.context_length, "context")
        rotary = rotary_table(self.config.rotary_dims, self.config.rotary_base, length, time)
        x = linear(params.scope("input_projection"), embed(params.scope("embedding"), tokens))
        x = dropout(params, "embedding", x, self.config.dropout)
        layers: list[KVCache] = []
        for layer in range(self.config.layers):
            cache = state.layers[layer] if state else None
            x, cache = apply_block(params, layer, self.block, x, rotary, cache, length)
            layers.append(cache)
        x = linear(params.scope("output_projection"), layer_norm(params.scope("norm"), x))
        return x, KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.heads, capacity, c.dim // c.heads)
