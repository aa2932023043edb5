"""Training steps in plain JAX, the baseline of the JAX engine.

Plain functions over dictionaries, all logits at once, optax for the optimizer, one ``jax.jit`` around the step. Weights
have the names and shapes of the family's parameter table, so that it is the same network.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from jax import numpy as jnp

from fabella.models.model_config import ModelConfig

Loss = Callable[[dict[str, Array], Array], Array]
"""Mean loss from weights and token ids [B, T + 1]."""


def peer_of(config: ModelConfig) -> str:
    """Return ``plain jax`` if this file has the family, otherwise an empty string."""
    return "plain jax" if config.family in LOSSES else ""


def plain_step(config: Any) -> tuple[Any, Any]:
    """Return the optimizer and the compiled step, (weights, optimizer state, token ids) → (weights, state, loss)."""
    # Gradient clipping and weight decay of the presets.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.01))
    loss_of = LOSSES[config.family](config)

    def step(weights: Any, optimizer_state: Any, sequences: Array) -> tuple[Any, Any, Array]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, sequences)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, weights)
        return optax.apply_updates(weights, updates), optimizer_state, loss

    return optimizer, jax.jit(step, donate_argnums=(0, 1))


def _cross_entropy(logits: Array, targets: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def _rms(x: Array, weight: Array | float = 1.0, eps: float = 1e-6) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def _attention(query: Array, key: Array, value: Array) -> Array:
    """Apply causal attention to [B, T, H, E] arrays; keys and values may have fewer heads."""
    return jax.nn.dot_product_attention(query, key, value, is_causal=True).reshape(*query.shape[:2], -1)


def _llama(config: Any) -> Loss:
    def rotate(x: Array) -> Array:
        half = x.shape[-1] // 2
        angles = jnp.arange(x.shape[1])[:, None] * config.rotary_base ** (-jnp.arange(half) / half)
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        first, second = x[..., :half], x[..., half:]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def loss(w: dict[str, Array], sequences: Array) -> Array:
        tokens, targets = sequences[:, :-1], sequences[:, 1:]
        x = w["embedding.weight"][tokens]
        for i in range(config.layers):
            b = f"blocks.{i}."
            y = _rms(x, w[b + "attention_norm.weight"], config.norm_eps)
            query, key, value = (
                (y @ w[f"{b}attention.{part}.weight"].T).reshape(*tokens.shape, heads, -1)
                for part, heads in (("query", config.heads), ("key", config.kv_heads), ("value", config.kv_heads))
            )
            x = x + _attention(rotate(query), rotate(key), value) @ w[b + "attention.output.weight"].T
            y = _rms(x, w[b + "feed_forward_norm.weight"], config.norm_eps)
            up = jax.nn.silu(y @ w[b + "feed_forward.gate.weight"].T) * (y @ w[b + "feed_forward.up.weight"].T)
            x = x + up @ w[b + "feed_forward.down.weight"].T
        head = w["embedding.weight"] if config.tie_embeddings else w["head.weight"]
        return _cross_entropy(_rms(x, w["norm.weight"], config.norm_eps) @ head.T, targets)

    return loss


def _gpt2(config: Any) -> Loss:
    def norm(w: dict[str, Array], name: str, x: Array) -> Array:
        return jax.nn.standardize(x, epsilon=1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(w: dict[str, Array], name: str, x: Array) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def loss(w: dict[str, Array], sequences: Array) -> Array:
        tokens, targets = sequences[:, :-1], sequences[:, 1:]
        x = w["embedding.weight"][tokens] + w["positions.weight"][: tokens.shape[1]]
        for i in range(config.layers):
            b = f"blocks.{i}."
            y = norm(w, b + "attention_norm", x)
            query, key, value = (
                linear(w, f"{b}attention.{part}", y).reshape(*tokens.shape, config.heads, -1)
                for part in ("query", "key", "value")
            )
            x = x + linear(w, b + "attention.output", _attention(query, key, value))
            y = linear(w, b + "feed_forward.up", norm(w, b + "feed_forward_norm", x))
            y = jax.nn.gelu(y, approximate=config.activation == "gelu_tanh")
            x = x + linear(w, b + "feed_forward.down", y)
        head = w["embedding.weight"] if config.tie_embeddings else w["head.weight"]
        return _cross_entropy(norm(w, "norm", x) @ head.T, targets)

    return loss


def _mingru(config: Any) -> Loss:
    def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    def loss(w: dict[str, Array], sequences: Array) -> Array:
        tokens, targets = sequences[:, :-1], sequences[:, 1:]
        x, total = jnp.zeros((*tokens.shape, config.dim)), jnp.zeros(())
        for i in range(config.layers):
            b = f"blocks.{i}."
            x = x + w[b + "embedding.weight"][tokens]
            y = _rms(x, w[b + "mixer_norm.weight"])
            gate = jax.nn.sigmoid(y @ w[b + "mixer.gate.weight"].T)
            candidate = y @ w[b + "mixer.candidate.weight"].T
            target = jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
            hidden = jax.lax.associative_scan(combine, (1 - gate, gate * target), axis=1)[1]
            x = x + (hidden @ w[b + "mixer.output.weight"].T if b + "mixer.output.weight" in w else hidden)
            y = jax.nn.gelu(
                _rms(x) @ w[b + "feed_forward.up.weight"].T + w[b + "feed_forward.up.bias"], approximate=False
            )
            x = x + y @ w[b + "feed_forward.down.weight"].T + w[b + "feed_forward.down.bias"]
            total = total + _cross_entropy(_rms(x, w[b + "head_norm.weight"]) @ w[b + "head.weight"].T, targets)
        return total / config.layers

    return loss


LOSSES: dict[str, Callable[[Any], Loss]] = {"llama": _llama, "gpt2": _gpt2, "mingru": _mingru}
