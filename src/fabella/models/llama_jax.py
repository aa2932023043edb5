"""Llama in JAX; llama.py describes the architecture."""

from jax import Array
from jaxtyping import Float, Int

from fabella.models.llama import Config
from fabella.models.nn.attention_jax import KVCache, KVState, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, linear, rms_norm, swiglu
from fabella.models.nn.rotary_jax import RotaryTable, apply_rotary, rotary_table


def attention(
    params: Params,
    config: Config,
    x: Float[Array, "B T D"],
    rotary: RotaryTable,
    kv_cache: KVCache | None,
    length: Array | int,
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Causal multi-head self-attention; heads share keys and values (grouped-query attention)."""
    query = apply_rotary(split_heads(linear(params.scope("query"), x), config.heads), rotary)
    key = apply_rotary(split_heads(linear(params.scope("key"), x), config.kv_heads), rotary)
    value = split_heads(linear(params.scope("value"), x), config.kv_heads)
    attn_out, kv_cache = attend(query, key, value, kv_cache, length, params.document_starts)
    return linear(params.scope("output"), attn_out), kv_cache


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""
        c = self.config
        normed = rms_norm(x, params["attention_norm.weight"], c.norm_eps)
        attn_out, kv_cache = attention(params.scope("attention"), c, normed, rotary, kv_cache, length)
        x = x + dropout(params, "attention", attn_out, c.dropout)
        ffn_out = swiglu(params.scope("feed_forward"), rms_norm(x, params["feed_forward_norm.weight"], c.norm_eps))
        return x + dropout(params, "feed_forward", ffn_out, c.dropout), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: KVState | None = None
    ) -> tuple[Float[Array, "B T D"], KVState | None]:
        c, length, time = self.config, (state.length if state else 0), tokens.shape[1]
        require_capacity(time, c.context_length, "context")
        rotary = rotary_table(c.dim // c.heads, c.rotary_base, length, time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens), c.dropout)
        layers: list[KVCache] = []
        for layer in range(c.layers):
            cache = state.layers[layer] if state else None
            x, cache = apply_block(params, layer, self.block, x, rotary, cache, length)
            layers.append(cache)
        x = rms_norm(x, params["norm.weight"], c.norm_eps)
        return x, KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.kv_heads, capacity, c.dim // c.heads)
