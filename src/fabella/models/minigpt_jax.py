"""MiniGPT in JAX; what it is stands in minigpt.py."""

from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.minigpt import Config
from fabella.models.nn.attention_jax import KVCache, attend, require_capacity, split_heads
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, embed, layer_norm, linear, swiglu


class RotaryTable(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Array, "T P"]
    sin: Float[Array, "T P"]


class State(NamedTuple):
    layers: list[KVCache]
    length: Int[Array, ""]


def rotary_table(config: Config, start: Array | int, length: int) -> RotaryTable:
    """Pair p turns by base^(−2p/R) a position, of R dims that turn (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    pairs = jnp.arange(0, config.rotary_dims, 2, dtype=jnp.float32)
    frequencies = jnp.float32(config.rotary_base) ** (-pairs / config.rotary_dims)
    rotary_complex = jnp.outer((jnp.arange(length) + start).astype(jnp.float32), frequencies)
    return RotaryTable(jnp.cos(rotary_complex), jnp.sin(rotary_complex))


def apply_rotary(x: Float[Array, "B H T E"], by: RotaryTable) -> Float[Array, "B H T E"]:
    """Turns neighbouring dims (0, 1), (2, 3) … as far as the angles reach; the other dims stay."""
    turning, staying = jnp.split(x, [2 * by.cos.shape[1]], axis=3)
    even, odd = turning[..., 0::2], turning[..., 1::2]
    turned = jnp.stack((even * by.cos - odd * by.sin, even * by.sin + odd * by.cos), axis=4).reshape(turning.shape)
    return jnp.concatenate((turned.astype(x.dtype), staying), axis=3)


def attention(
    part: Params, config: Config, x: Float[Array, "B T D"], by: RotaryTable, past: KVCache | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KVCache | None]:
    """Every position asks all positions up to its own; how far apart they stand is seen by the turned dims alone."""
    query, key, value = (split_heads(linear(part.scope(name), x), config.heads) for name in ("query", "key", "value"))
    mixed, past = attend(apply_rotary(query, by), apply_rotary(key, by), value, past, length)
    return linear(part.scope("output"), mixed), past


class Model(CausalLM):
    """A narrow embedding widened to the model, the blocks, and the same way back."""

    config: Config

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight"]

    def block(
        self, part: Params, x: Float[Array, "B T D"], by: RotaryTable, past: KVCache | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attention, then SwiGLU: each reads the normed stream and adds to it."""
        normed = layer_norm(part.scope("attention_norm"), x)
        mixed, past = attention(part.scope("attention"), self.config, normed, by, past, length)
        x = x + mixed
        return x + swiglu(part.scope("feed_forward"), layer_norm(part.scope("feed_forward_norm"), x)), past

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        """[B T embedding]: already projected back to where the embedding reads it out."""
        length, time = (state.length if state else 0), tokens.shape[1]
        require_capacity(time, self.config.context_length, "context")
        by = rotary_table(self.config, length, time)
        x = linear(params.scope("input_projection"), embed(params.scope("embedding"), tokens))
        layers: list[KVCache] = []
        for layer in range(self.config.layers):
            x, past = apply_block(params, layer, self.block, x, by, state.layers[layer] if state else None, length)
            layers.append(past)
        x = linear(params.scope("output_projection"), layer_norm(params.scope("norm"), x))
        return x, State(layers, state.length + time) if state else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache.empty(batch_size, c.heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
