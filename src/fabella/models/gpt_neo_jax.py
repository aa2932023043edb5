"""GPT-Neo in JAX; gpt_neo.py describes the architecture."""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.gpt_neo import Config
from fabella.models.nn.attention_jax import KVCache, KVState, document_mask, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.hooks_jax import report
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, layer_norm, linear


def attention(
    params: Params, heads: int, window: int, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Causal attention to the last ``window`` tokens, without a scale."""
    query, key, value = (split_heads(linear(params.scope(name), x), heads) for name in ("query", "key", "value"))
    if kv_cache is not None:
        kv_cache = kv_cache.append(key, value, jnp.asarray(length))
        key, value = kv_cache.keys.astype(query.dtype), kv_cache.values.astype(query.dtype)
    new, seen = jnp.arange(x.shape[1])[:, None] + length, jnp.arange(key.shape[2])
    scores = jnp.einsum("bhte,bhse->bhts", query, key, preferred_element_type=jnp.float32)
    visible = (seen <= new) & (seen > new - window)
    if params.document_starts is not None:
        assert kv_cache is None, "documents are masked in whole sequences only"
        visible = visible & document_mask(params.document_starts, key.shape[2])[:, 0]
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    report("attention", weights)
    attn_out = jnp.einsum("bhts,bhse->bthe", weights.astype(value.dtype), value)
    return linear(params.scope("output"), attn_out.reshape(*x.shape[:2], -1)), kv_cache


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
        c, layer = self.config, int(params.prefix.split(".")[1])
        normed = layer_norm(params.scope("attention_norm"), x, c.norm_eps)
        attn_out, kv_cache = attention(params.scope("attention"), c.heads, c.windows[layer], normed, kv_cache, length)
        x = x + dropout(params, "attention", attn_out, c.dropout)
        mlp = params.scope("feed_forward")
        up = linear(mlp.scope("up"), layer_norm(params.scope("feed_forward_norm"), x, c.norm_eps))
        ffn_out = linear(mlp.scope("down"), jax.nn.gelu(up, approximate=c.activation == "gelu_tanh"))
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
        x = layer_norm(params.scope("norm"), x, self.config.norm_eps)
        return x, KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.heads, capacity, c.dim // c.heads)
