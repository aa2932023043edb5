"""Modern in JAX; modern.py describes the architecture."""

from typing import Any, NamedTuple

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.modern import NORM_EPS, ROTARY_BASE, Config
from fabella.models.nn.attention_jax import KVCache, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.convolution_jax import short_convolution
from fabella.models.nn.hooks_jax import report
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, linear, rms_norm, swiglu
from fabella.models.nn.recurrence_jax import candidate_state, recur
from fabella.models.nn.rotary_jax import RotaryTable, apply_rotary, rotary_table


class LayerState(NamedTuple):
    """What one layer remembers: keys and values, or the hidden state of a MinGRU, and inputs of the convolution."""

    memory: Any
    inputs: Float[Array, "B K D"] | None


class State(NamedTuple):
    """``length``: tokens so far."""

    layers: list[LayerState]
    length: Int[Array, ""]


class Context(NamedTuple):
    """What all layers of a call read."""

    embedded: Float[Array, "B T D"]
    rotary: RotaryTable
    length: Array | int
    """Tokens before this call."""


def attention(
    params: Params, config: Config, inputs: tuple[Array, Array], first_value: Array | None, past: KVCache | None,
    context: Context,
) -> tuple[Float[Array, "B T D"], Float[Array, "B K T E"], KVCache | None]:  # fmt: skip
    """Return the output, this layer's own values, and the cache. ``inputs``: after and before the convolution."""
    x, plain = inputs
    query = split_heads(linear(params.scope("query"), x), config.heads)
    key = split_heads(linear(params.scope("key"), x), config.kv_heads)
    value = own_value = split_heads(linear(params.scope("value"), x), config.kv_heads)
    if "qk_norm" in config.features:
        ones = jnp.ones(query.shape[-1], jnp.float32)
        query = rms_norm(query, ones, NORM_EPS).astype(value.dtype)
        key = rms_norm(key, ones, NORM_EPS).astype(value.dtype)
    if first_value is not None and f"{params.prefix}value_weights" in params.weights:
        own, first = params["value_weights"].astype(value.dtype)
        value = own * value + first * first_value
    query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
    attended, past = attend(query, key, value, past, context.length, params.document_starts)
    if "attention_gate" in config.features:
        gate = 2 * jax.nn.sigmoid(linear(params.scope("output_gate"), plain))
        by_head = attended.reshape(*attended.shape[:2], config.heads, -1) * gate[..., None].astype(attended.dtype)
        attended = by_head.reshape(attended.shape)
    return linear(params.scope("output"), attended), own_value, past


def gated_mingru(
    params: Params, config: Config, inputs: tuple[Array, Array], initial: Float[Array, "B S"] | None
) -> tuple[Float[Array, "B T D"], Float[Array, "B S"]]:
    """Return the output and the last hidden state. ``inputs``: after and before the convolution."""
    x, plain = inputs
    gate, candidate = linear(params.scope("gate"), x), linear(params.scope("candidate"), x)
    if initial is None:
        initial = jnp.zeros((gate.shape[0], gate.shape[2]), jnp.float32)
    hidden = recur(gate, candidate, initial, params.document_starts)
    for name, value in (("gate", jax.nn.sigmoid(gate)), ("candidate", candidate_state(candidate)), ("state", hidden)):
        report(name, value)
    normed = rms_norm(hidden, params["output_norm.weight"], NORM_EPS)
    gated = normed * jax.nn.silu(linear(params.scope("output_gate"), plain))
    return linear(params.scope("output"), gated), hidden[:, -1]


class Model(CausalLM):
    """The embedding, normed, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, params: Params, x: Float[Array, "B T D"], first_value: Array | None, past: LayerState | None,
        context: Context,
    ) -> tuple[Float[Array, "B T D"], Array | None, LayerState]:  # fmt: skip
        """The embedding again, a pre-norm mixer, then a pre-norm MLP, each added to the residual stream."""
        c = self.config
        if "embedding_residual" in c.features:
            x = params["residual_weight"] * x + params["embedding_weight"] * context.embedded
        plain = convolved = rms_norm(x, params["mixer_norm.weight"], NORM_EPS)
        memory, inputs = past or LayerState(None, None)
        if c.past_inputs:
            convolved, inputs = short_convolution(params.scope("convolution"), plain, inputs)
        mixer = params.scope("mixer")
        if f"{mixer.prefix}candidate.weight" in params.weights:
            mixed, memory = gated_mingru(mixer, c, (convolved, plain), memory)
        else:
            mixed, value, memory = attention(mixer, c, (convolved, plain), first_value, memory, context)
            first_value = value if first_value is None else first_value
        x = x + dropout(params, "mixer", mixed, c.dropout)
        ffn_out = swiglu(params.scope("feed_forward"), rms_norm(x, params["feed_forward_norm.weight"], NORM_EPS))
        return x + dropout(params, "feed_forward", ffn_out, c.dropout), first_value, LayerState(memory, inputs)

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        c, length, time = self.config, (state.length if state else 0), tokens.shape[1]
        self._require_context(time)
        x = rms_norm(embed(params.scope("embedding"), tokens), jnp.ones(c.dim, jnp.float32), NORM_EPS)
        x = dropout(params, "embedding", x, c.dropout)
        context = Context(x, rotary_table(c.dim // c.heads, ROTARY_BASE, length, time), length)
        first_value: Array | None = None
        layers: list[LayerState] = []
        for layer in range(c.layers):
            past = state.layers[layer] if state else None
            x, first_value, new = apply_block(params, layer, self.block, x, first_value, past, context)
            layers.append(new)
        return rms_norm(x, params["norm.weight"], NORM_EPS), State(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        self._require_context(capacity)
        c = self.config
        inputs = jnp.zeros((batch_size, c.past_inputs, c.dim), jnp.float32) if c.past_inputs else None
        layers = [
            LayerState(
                KVCache.empty(batch_size, c.kv_heads, capacity, c.dim // c.heads)
                if kind == "a"
                else jnp.zeros((batch_size, c.state_dim), jnp.float32),
                inputs,
            )
            for kind in c.kinds
        ]
        return State(layers, jnp.zeros((), jnp.int32))

    def _require_context(self, tokens: int) -> None:
        if not self.config.unlimited_context:
            require_capacity(tokens, self.config.context_length, "context")
