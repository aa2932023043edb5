"""Blocks that two or more families use: the base of a model with one output head, norms, linear layers, SwiGLU.

JAX models are plain functions of a :class:`Params`: weights by name, and the settings of the computation. Nothing is
stored between two calls; ``decode`` returns the new state.
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

from fabella.models.nn.hooks_jax import report
from fabella.models.nn.loss_jax import linear_cross_entropy, linear_losses

Weights = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Params:
    """Weights of a module by their names within it, and the settings of the computation."""

    weights: Weights
    """All weights of the model, by the names of its parameter table."""
    prefix: str = ""
    """Name of the module, with a trailing dot; empty for the whole model."""
    compute: Any = jnp.float32
    """Dtype of matrix products; weights, norms and sums are float32."""
    keys: Array | None = None
    """Random keys of dropout, one per row of the batch; None disables dropout."""
    document_starts: Int[Array, "B T"] | None = None
    """Position at which the document of each token starts; nothing before it has an influence. None: no mask."""
    gradient_checkpointing: bool = False
    """Whether the backward pass recomputes the activations of each block instead of storing them."""

    def scope(self, name: str) -> "Params":
        """Return the weights of a submodule: ``params.scope("blocks.0").scope("attention")``."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Array:
        return self.weights[self.prefix + name]


# A pytree of the weights and keys, so that ``jax.checkpoint`` and ``jax.grad`` accept it like an array.
jax.tree_util.register_dataclass(
    Params,
    data_fields=["weights", "keys", "document_starts"],
    meta_fields=["prefix", "compute", "gradient_checkpointing"],
)


class Network:
    """Base of every ``Model``: code for one config. Models with equal configs are equal, so JAX compiles them once."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __hash__(self) -> int:
        return hash((type(self), self.config))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.config == getattr(other, "config", None)


class CausalLM(Network):
    """Base of a model with one output head: logits = hidden states @ ``head_weight``.T."""

    @abstractmethod
    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        """Weight of the output head: a parameter of its own, or the tied embedding."""

    @abstractmethod
    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: Any = None
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Return the output of the last block, ready for the head, and the new state; continues from ``state``."""

    def forward(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Return next-token logits at every position."""
        hidden, _ = self.hidden_states(params, tokens)
        return multiply(hidden, self.head_weight(params), params.compute).astype(jnp.float32)

    def loss_sum(self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]) -> Float[Array, ""]:
        """Return the sum of the losses in nats of all targets that are not IGNORE."""
        hidden, _ = self.hidden_states(params, tokens)
        return linear_cross_entropy(hidden, self.head_weight(params), targets, params.compute)

    def token_losses(
        self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """Return the negative log-likelihood of each target in nats; 0 where IGNORE."""
        hidden, _ = self.hidden_states(params, tokens)
        return linear_losses(hidden, self.head_weight(params), targets, params.compute)

    def decode(self, params: Params, tokens: Int[Array, "B T"], state: Any) -> tuple[Float[Array, "B V"], Any]:
        """Return the logits of the last position after T more tokens, and the new state."""
        hidden, state = self.hidden_states(params, tokens, state)
        return multiply(hidden[:, -1], self.head_weight(params), params.compute).astype(jnp.float32), state


def multiply(x: Float[Array, "*b D"], weight: Float[Array, "N D"], compute: Any) -> Float[Array, "*b N"]:
    """Return x @ weight.T in the dtype ``compute``."""
    return jnp.einsum("...d,nd->...n", x.astype(compute), weight.astype(compute))


def linear(params: Params, x: Float[Array, "*b D"]) -> Float[Array, "*b N"]:
    """Return x @ weight.T, plus the bias if there is one."""
    y = multiply(x, params["weight"], params.compute)
    bias = params.weights.get(f"{params.prefix}bias")
    y = y if bias is None else y + bias.astype(y.dtype)
    report(params.prefix.removesuffix("."), y)
    return y


def embed(params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Return the embedding row of every token id, in float32."""
    return params["weight"][tokens]


def layer_norm(params: Params, x: Float[Array, "*b D"], eps: float = 1e-5) -> Float[Array, "*b D"]:
    """Return (x − mean) / √(variance + eps) · weight (+ bias), in float32 (Ba et al. 2016, arXiv 1607.06450)."""
    x = x.astype(jnp.float32)
    centered = x - x.mean(-1, keepdims=True)
    normed = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + eps) * params["weight"]
    bias = params.weights.get(f"{params.prefix}bias")
    return normed if bias is None else normed + bias


def rms_norm(x: Float[Array, "*b D"], weight: Float[Array, " D"], eps: float = 1e-6) -> Float[Array, "*b D"]:
    """Return x / √(mean(x²) + eps) · weight, in float32 (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * weight


def swiglu(params: Params, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """Return down(silu(gate x) · up x), without biases (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    return linear(params.scope("down"), jax.nn.silu(linear(params.scope("gate"), x)) * linear(params.scope("up"), x))


def dropout(params: Params, site: str, x: Float[Array, "B T D"], rate: float) -> Float[Array, "B T D"]:
    """Zero a share ``rate`` of ``x`` and scale the rest by 1 / (1 − rate).

    ``site`` names the call within the module, so that each call draws another mask. Each row has its own key: its mask
    does not depend on the other rows or on the number of devices.
    """
    if params.keys is None or rate == 0.0:
        return x
    number = zlib.crc32(f"{params.prefix}{site}".encode())

    def draw(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(draw)(params.keys), x / (1.0 - rate), jnp.zeros_like(x))


def apply_block(params: Params, layer: int, block: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``block(params, *arguments)`` for a layer; with gradient checkpointing, store only its input."""
    run = jax.checkpoint(block) if params.gradient_checkpointing else block
    report(f"blocks.{layer}.input", arguments[0])
    result = run(params.scope(f"blocks.{layer}"), *arguments)
    report(f"blocks.{layer}.residual", result[0] if isinstance(result, tuple) else result)
    return result
