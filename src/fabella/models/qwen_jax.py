"""Qwen in JAX; qwen.py describes the architecture."""

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.nn.attention_jax import KVCache, KVState, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, embed, linear, rms_norm, swiglu
from fabella.models.nn.rotary_jax import RotaryTable, apply_rotary
from fabella.models.qwen import Config


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def rotary_table(self, start: Array | int, length: int) -> RotaryTable:
        """Return the angles of ``length`` positions from ``start``."""
        positions = (jnp.arange(length) + start).astype(jnp.float32)
        angles = jnp.outer(positions, jnp.array(self.config.rotary_frequencies, jnp.float32))
        return RotaryTable(jnp.cos(angles), jnp.sin(angles))

    def attention(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Causal grouped-query attention; queries and keys are normed per head before they are rotated."""
        c = self.config
        query = split_heads(linear(params.scope("query"), x), c.heads)
        key = split_heads(linear(params.scope("key"), x), c.kv_heads)
        value = split_heads(linear(params.scope("value"), x), c.kv_heads)
        if c.qk_norm:
            query = rms_norm(query, params["query_norm.weight"], c.norm_eps)
            key = rms_norm(key, params["key_norm.weight"], c.norm_eps)
        rotated = apply_rotary(query, rotary).astype(value.dtype), apply_rotary(key, rotary).astype(value.dtype)
        attn_out, kv_cache = attend(*rotated, value, kv_cache, length, params.document_starts)
        return linear(params.scope("output"), attn_out), kv_cache

    def block(
        self, params: Params, x: Float[Array, "B T D"], rotary: RotaryTable, kv_cache: KVCache | None,
        length: Array | int,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:  # fmt: skip
        """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""
        eps = self.config.norm_eps
        normed = rms_norm(x, params["attention_norm.weight"], eps)
        attn_out, kv_cache = self.attention(params.scope("attention"), normed, rotary, kv_cache, length)
        x = x + attn_out
        return x + swiglu(params.scope("feed_forward"), rms_norm(x, params["feed_forward_norm.weight"], eps)), kv_cache

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: KVState | None = None
    ) -> tuple[Float[Array, "B T D"], KVState | None]:
        c, length, time = self.config, (state.length if state else 0), tokens.shape[1]
        require_capacity(time, c.context_length, "context")
        rotary = self.rotary_table(length, time)
        x = embed(params.scope("embedding"), tokens)
        layers: list[KVCache] = []
        for layer in range(c.layers):
            cache = state.layers[layer] if state else None
            x, cache = apply_block(params, layer, self.block, x, rotary, cache, length)
            layers.append(cache)
        return rms_norm(x, params["norm.weight"], c.norm_eps), KVState(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> KVState:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        return KVState.empty(c.layers, batch_size, c.kv_heads, capacity, c.head_dim)
