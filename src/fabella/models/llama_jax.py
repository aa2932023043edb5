"""Llama in JAX; what it is stands in llama.py."""

from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.llama import Config
from fabella.models.nn.attention_jax import KeyValues, attend, require_room, split_heads
from fabella.models.nn.layers_jax import OneHead, Part, block_of, dropout, embed, linear, rms_norm, swiglu


class Angles(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Array, "T P"]
    sin: Float[Array, "T P"]


class State(NamedTuple):
    layers: list[KeyValues]
    length: Int[Array, ""]


def angles(config: Config, start: Array | int, length: int) -> Angles:
    """Pair p turns by base^(−2p/E) a position (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    head_dim = config.dim // config.heads
    pairs = jnp.arange(0, head_dim, 2, dtype=jnp.float32)
    frequencies = jnp.float32(config.rotary_base) ** (-pairs / head_dim)
    turns = jnp.outer((jnp.arange(length) + start).astype(jnp.float32), frequencies)
    return Angles(jnp.cos(turns), jnp.sin(turns))


def turn(x: Float[Array, "B H T E"], by: Angles) -> Float[Array, "B H T E"]:
    """Turns dim i together with dim i + E/2: the order in which HF keeps Llama's weights."""
    first, second = jnp.split(x, 2, axis=3)
    turned = jnp.concatenate((first * by.cos - second * by.sin, second * by.cos + first * by.sin), axis=3)
    return turned.astype(x.dtype)


def attention(
    part: Part, config: Config, x: Float[Array, "B T D"], by: Angles, past: KeyValues | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KeyValues | None]:
    """Every position asks all positions up to its own; heads/kv_heads queries share a key and a value."""
    query = turn(split_heads(linear(part.at("query"), x), config.heads), by)
    key = turn(split_heads(linear(part.at("key"), x), config.kv_heads), by)
    value = split_heads(linear(part.at("value"), x), config.kv_heads)
    mixed, past = attend(query, key, value, past, length)
    return linear(part.at("output"), mixed), past


class Model(OneHead):
    """The embedding, the blocks, a last norm, the head."""

    config: Config

    def head_weight(self, network: Part) -> Float[Array, "V D"]:
        return network["embedding.weight" if self.config.tied else "head.weight"]

    def block(
        self, part: Part, x: Float[Array, "B T D"], by: Angles, past: KeyValues | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KeyValues | None]:
        """Attention, then SwiGLU: each reads the normed stream and adds to it."""
        c = self.config
        normed = rms_norm(x, part["attention_norm.weight"], c.norm_eps)
        mixed, past = attention(part.at("attention"), c, normed, by, past, length)
        x = x + dropout(part, "attention", mixed, c.dropout)
        thought = swiglu(part.at("feed_forward"), rms_norm(x, part["feed_forward_norm.weight"], c.norm_eps))
        return x + dropout(part, "feed_forward", thought, c.dropout), past

    def read(
        self, network: Part, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        require_room(time, self.config.context, "context")
        by = angles(self.config, length, time)
        x = dropout(network, "embedding", embed(network.at("embedding"), tokens), self.config.dropout)
        layers: list[KeyValues] = []
        for layer in range(self.config.layers):
            x, past = block_of(network, layer, self.block, x, by, state.layers[layer] if state else None, length)
            layers.append(past)
        x = rms_norm(x, network["norm.weight"], self.config.norm_eps)
        return x, State(layers, state.length + time) if state else None

    def start(self, batch: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch`` texts. Raises UsageError beyond the context."""
        c = self.config
        require_room(capacity, c.context, "context")
        layers = [KeyValues.empty(batch, c.kv_heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
