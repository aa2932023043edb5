"""GPT-2 in JAX; what it is stands in gpt2.py."""

from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.gpt2 import Config
from fabella.models.nn.attention_jax import KeyValues, attend, require_room, split_heads
from fabella.models.nn.layers_jax import OneHead, Part, block_of, dropout, embed, layer_norm, linear


class State(NamedTuple):
    layers: list[KeyValues]
    length: Int[Array, ""]


def attention(
    part: Part, config: Config, x: Float[Array, "B T D"], past: KeyValues | None, length: Array | int
) -> tuple[Float[Array, "B T D"], KeyValues | None]:
    """Every position asks all positions up to its own, in each head for something else."""
    query, key, value = (split_heads(linear(part.at(name), x), config.heads) for name in ("query", "key", "value"))
    mixed, past = attend(query, key, value, past, length)
    return linear(part.at("output"), mixed), past


def feed_forward(part: Part, config: Config, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """down(GELU(up x)), at each position by itself."""
    approximate = config.activation == "gelu_tanh"
    return linear(part.at("down"), jax.nn.gelu(linear(part.at("up"), x), approximate=approximate))


class Model(OneHead):
    """Token and position embeddings, the blocks, a last norm, the head."""

    config: Config

    def head_weight(self, network: Part) -> Float[Array, "V D"]:
        return network["embedding.weight" if self.config.tied else "head.weight"]

    def block(
        self, part: Part, x: Float[Array, "B T D"], past: KeyValues | None, length: Array | int
    ) -> tuple[Float[Array, "B T D"], KeyValues | None]:
        """Attention, then feed-forward: each reads the normed stream and adds to it."""
        c = self.config
        mixed, past = attention(part.at("attention"), c, layer_norm(part.at("attention_norm"), x), past, length)
        x = x + dropout(part, "attention", mixed, c.dropout)
        thought = feed_forward(part.at("feed_forward"), c, layer_norm(part.at("feed_forward_norm"), x))
        return x + dropout(part, "feed_forward", thought, c.dropout), past

    def read(
        self, network: Part, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        length, time = (state.length if state else 0), tokens.shape[1]
        require_room(time, self.config.context, "context")
        positions = lax.dynamic_slice_in_dim(network["positions.weight"], length, time)
        x = dropout(network, "embedding", embed(network.at("embedding"), tokens) + positions, self.config.dropout)
        layers: list[KeyValues] = []
        for layer in range(self.config.layers):
            x, past = block_of(network, layer, self.block, x, state.layers[layer] if state else None, length)
            layers.append(past)
        return layer_norm(network.at("norm"), x), State(layers, state.length + time) if state else None

    def start(self, batch: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch`` texts. Raises UsageError beyond the context."""
        c = self.config
        require_room(capacity, c.context, "context")
        layers = [KeyValues.empty(batch, c.heads, capacity, c.dim // c.heads) for _ in range(c.layers)]
        return State(layers, jnp.zeros((), jnp.int32))
