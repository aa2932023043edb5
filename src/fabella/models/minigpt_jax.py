"""MiniGPT in JAX; what it is stands in minigpt.py."""

from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.minigpt import Config
from fabella.models.nn.attention_jax import KeyValues, attend, require_room, split_heads
from fabella.models.nn.layers_jax import OneHead, Part, block_of, embed, layer_norm, linear, swiglu


class Angles(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Array, "T P"]
    sin: Float[Array, "T P"]


class State(NamedTuple):
    layers: list[KeyValues]
    length: Int[Array, ""]


def angles(config: Config, start: Array | int, length: int) -> Angles:
    """Pair p turns by base^(−2p/R) a position, of R dims that turn (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    pairs = jnp.arange(0, config.rotary_dims, 2, dtype=jnp.float32)
    frequencies = jnp.float32(config.rotary_base) ** (-pairs / config.rotary_dims)
    turns = jnp.outer((jnp.arange(length) + start).astype(jnp.float32), frequencies)
    return Angles(jnp.cos(turns), jnp.sin(turns))


def turn(x: Float[Array, "B H T E"], by: Angles) -> Float[Array, "B H T E"]:
    """Turns neighbouring dims (0, 1), (2, 3) … as far as the angles reach; the other dims stay."""
    turning, staying = jnp.split(x, [2 * by.cos.shape[1]], axis=3)
    even, odd = turning[..., 0::2], turning[..., 1::2]
    turned = jnp.stack((even * by.cos - odd * by.sin, even * by.sin + odd * by.cos), axis=4).reshape(turning.shape)
    return jnp.concatenate((turned.astype(x.dtype), staying), axis=3)


def attention(
    part: Part, config: Config, x: Float[Array, "B T D"], by: Angles, past: KeyValues | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KeyValues | None]:
    """Every position asks all positions up to its own; how far apart they stand is seen by the turned dims alone."""
    query, key, value = (split_heads(linear(part.at(name), x), config.heads) for name in ("query", "key", "value"))
    mixed, past = attend(turn(query, by), turn(key, by), value, past, length)
    return linear(part.at("output"), mixed), past


class Model(OneHead):
    """A narrow embedding widened to the model, the blocks, and the same way back."""

    config: Config

    def head_weight(self, network: Part) -> Float[Array, "V D"]:
        return network["embedding.weight"]

    def block(
        self, part: Part, x: Float[Array, "B T D"], by: Angles, past: KeyValues | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KeyValues | None]:
        """Attention, then SwiGLU: each reads the normed stream and adds to it."""
        normed = layer_norm(part.at("attention_norm"), x)
        mixed, past = attention(part.at("attention"), self.config, normed, by, past, length)
        x = x + mixed
        return x + swiglu(part.at("feed_forward"), layer_norm(part.at("feed_forward_norm"), x)), past

    def read(
        self, network: Part, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        """[B T embedding]: already projected back to where the embedding reads it out."""
        length, time = (state.length if state else 0), tokens.shape[1]
        require_room(time, self.config.context, "context")
        by = angles(self.config, length, time)
        x = linear(network.at("input_projection"), embed(network.at("embedding"), tokens))
        layers: list[KeyValues] = []
        for layer in range(self.config.layers):
            x, past = block_of(network, layer, self.block, x, by, state.layers[layer] if state else None, length)
            layers.append(past)
        x = linear(network.at("output_projection"), layer_norm(network.at("norm"), x))
        return x, State(layers, state.length + time) if state else None

    def start(self, batch: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch`` texts. Raises UsageError beyond the context."""
        c = self.config
        require_room(capacity, c.context, "context")
        layers = [KeyValues.empty(batch, c.heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
