"""Blocks that two or more families use unchanged: the frame of a model with one head, norms, layers, SwiGLU.

A params is plain functions over its :class:`Part`: weights by name, and how to compute with them. Nothing is kept
between two calls: ``decode`` returns the new state.
"""

import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.nn.loss_jax import linear_cross_entropy, linear_losses

Weights = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Params:
    """A part of the params: its weights, by the names that they have within it, and how to compute with them."""

    weights: Weights
    """All of the params, by the names of its parameter table."""
    prefix: str = ""
    compute: Any = jnp.float32
    """What matrix products are taken in; weights, norms and sums are float32 all the same."""
    keys: Array | None = None
    """What dropout is drawn from, a key for each row of the batch; without them, none falls."""
    recompute: bool = False
    """Whether a block's activations are computed again on the way back instead of being kept."""

    def scope(self, name: str) -> "Params":
        """A part of this part: ``params.at("blocks.0").at("attention")``."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Array:
        return self.weights[self.prefix + name]


# As a tree it is its weights and its key, so that it goes through ``jax.checkpoint`` and ``jax.grad`` like an array.
jax.tree_util.register_dataclass(
    Params, data_fields=["weights", "keys"], meta_fields=["prefix", "compute", "recompute"]
)


class Network:
    """What every ``Model`` is: code for one config. Two of the same config are equal, and compiled once."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __hash__(self) -> int:
        return hash((type(self), self.config))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.config == getattr(other, "config", None)


class CausalLM(Network):
    """The contract of a model whose logits are ``head_weight`` times the hidden state that it reads a text into."""

    @abstractmethod
    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        """The read-out matrix: a weight of its own, or the embedding."""

    @abstractmethod
    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: Any = None
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The last hidden state at every position, and the ``state`` with these tokens read."""

    def forward(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Next-token logits at every position."""
        hidden, _ = self.hidden_states(params, tokens)
        return multiply(hidden, self.head_weight(params), params.compute).astype(jnp.float32)

    def loss_sum(self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]) -> Float[Array, ""]:
        """Sum of the losses of all targets that are not IGNORE, in nats."""
        hidden, _ = self.hidden_states(params, tokens)
        return linear_cross_entropy(hidden, self.head_weight(params), targets, params.compute)

    def token_losses(
        self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """Each target's negative log-likelihood in nats; 0 where IGNORE."""
        hidden, _ = self.hidden_states(params, tokens)
        return linear_losses(hidden, self.head_weight(params), targets, params.compute)

    def decode(self, params: Params, tokens: Int[Array, "B T"], state: Any) -> tuple[Float[Array, "B V"], Any]:
        """Return the logits of the last position after T more tokens, and the new state."""
        hidden, state = self.hidden_states(params, tokens, state)
        return multiply(hidden[:, -1], self.head_weight(params), params.compute).astype(jnp.float32), state


def multiply(x: Float[Array, "*b D"], weight: Float[Array, "N D"], compute: Any) -> Float[Array, "*b N"]:
    """x @ weight.T in the type ``compute``."""
    return jnp.einsum("...d,nd->...n", x.astype(compute), weight.astype(compute))


def linear(part: Params, x: Float[Array, "*b D"]) -> Float[Array, "*b N"]:
    """x @ weight.T, and the bias where the part has one."""
    y = multiply(x, part["weight"], part.compute)
    bias = part.weights.get(f"{part.prefix}bias")
    return y if bias is None else y + bias.astype(y.dtype)


def embed(part: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The row of every id, in float32."""
    return part["weight"][tokens]


def layer_norm(part: Params, x: Float[Array, "*b D"], eps: float = 1e-5) -> Float[Array, "*b D"]:
    """(x − mean) / √(variance + eps) · weight (+ bias), in float32 (Ba et al. 2016, arXiv 1607.06450)."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * part["weight"]
    bias = part.weights.get(f"{part.prefix}bias")
    return normed if bias is None else normed + bias


def rms_norm(x: Float[Array, "*b D"], weight: Float[Array, " D"], eps: float = 1e-6) -> Float[Array, "*b D"]:
    """x / √(mean(x²) + eps) · weight, in float32 (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * weight


def swiglu(part: Params, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """down(silu(gate x) · up x), without biases (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    return linear(part.scope("down"), jax.nn.silu(linear(part.scope("gate"), x)) * linear(part.scope("up"), x))


def dropout(part: Params, place: str, x: Float[Array, "B T D"], rate: float) -> Float[Array, "B T D"]:
    """Zeros a share ``rate`` of ``x`` and scales up the rest. ``place`` names the draw, apart from any other's.

    Each row is drawn by itself: neither its neighbours nor the number of devices decide what falls out of it.
    """
    if part.keys is None or rate == 0.0:
        return x
    number = zlib.crc32(f"{part.prefix}{place}".encode())

    def draw(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(draw)(part.keys), x / (1.0 - rate), jnp.zeros_like(x))


def apply_block(params: Params, layer: int, block: Callable[..., Any], *arguments: Any) -> Any:
    """``block(part, *arguments)`` for a layer; with ``recompute``, of all that it computes only its input is kept."""
    run = jax.checkpoint(block) if params.recompute else block
    return run(params.scope(f"blocks.{layer}"), *arguments)
