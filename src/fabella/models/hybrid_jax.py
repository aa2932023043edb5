"""Hybrid in JAX; hybrid.py describes the architecture."""

from typing import Any, NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.hybrid import Config
from fabella.models.nn.attention_jax import KVCache, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, linear, rms_norm, swiglu
from fabella.models.nn.recurrence_jax import mingru


class State(NamedTuple):
    """``layers``: keys and values, or a hidden state; ``length``: tokens read."""

    layers: list[Any]
    length: Int[Array, ""]


def attention(
    part: Params, heads: int, x: Float[Array, "B T D"], kv_cache: KVCache | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Attention without positions, in the form of a mixer: it takes and gives back what it has read."""
    query, key, value = (split_heads(linear(part.scope(name), x), heads) for name in ("query", "key", "value"))
    attn_out, kv_cache = attend(query, key, value, kv_cache, length, part.document_starts)
    return linear(part.scope("output"), attn_out), kv_cache


class Model(CausalLM):
    """The embedding, the blocks, a last norm, the embedding again."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight"]

    def block(
        self, part: Params, x: Float[Array, "B T D"], memory: Any, length: Array | int
    ) -> tuple[Float[Array, "B T D"], Any]:
        """A mixer of either kind, then SwiGLU: each reads the normed stream and adds to it."""
        mixer, normed = part.scope("mixer"), rms_norm(x, part["mixer_norm.weight"])
        if f"{mixer.prefix}candidate.weight" in part.weights:
            attn_out, memory = mingru(mixer, normed, memory)
        else:
            attn_out, memory = attention(mixer, self.config.heads, normed, memory, length)
        x = x + dropout(part, "mixer", attn_out, self.config.dropout)
        ffn_out = swiglu(part.scope("feed_forward"), rms_norm(x, part["feed_forward_norm.weight"]))
        return x + dropout(part, "feed_forward", ffn_out, self.config.dropout), memory

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        if state is None:
            self._require_context(time)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens), self.config.dropout)
        layers: list[Any] = []
        for layer in range(self.config.layers):
            x, memory = apply_block(params, layer, self.block, x, state.layers[layer] if state else None, length)
            layers.append(memory)
        return rms_norm(x, params["norm.weight"]), State(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context of attention."""
        self._require_context(capacity)
        c = self.config
        return State(
            [
                KVCache.empty(batch_size, c.heads, capacity, c.dim // c.heads)
                if kind == "a"
                else jnp.zeros((batch_size, c.dim), jnp.float32)
                for kind in c.kinds
            ],
            jnp.zeros((), jnp.int32),
        )

    def _require_context(self, tokens: int) -> None:
        if not self.config.unlimited_context:
            require_capacity(tokens, self.config.context_length, "context")
