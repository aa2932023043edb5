"""GPT2LMHeadModel. Its linear layers (Conv1D) store the transposed matrix, query, key and value in one."""

from collections.abc import Mapping
from typing import Any

from fabella.interop.architectures.architecture import (
    require_choice,
    require_flag,
    require_number,
    require_setting,
    require_size,
)
from fabella.interop.tensor_map import TensorRow, linear_rows, row
from fabella.models.gpt2 import Config

FAMILIES = frozenset({"gpt2"})
MODEL_TYPES = frozenset({"gpt2"})
IGNORED = (".attn.bias", ".attn.masked_bias")
LAYER_NORM_EPSILON = 1e-5
"""PyTorch's default, which the family uses."""
PREFIX = "transformer."
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
THEIR_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
}
"""Hugging Face's names of the two forms of GELU."""


def to_config(config: Config) -> dict[str, Any]:
    """Return the ``config.json``."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.dim,
        "n_inner": config.ffn_dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": ACTIVATIONS[config.activation],
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }


def from_config(values: Mapping[str, Any]) -> Config:
    """Return the config of the family ``gpt2``. Raises UsageError for a feature that it lacks."""
    if abs(require_number(values, "layer_norm_epsilon", LAYER_NORM_EPSILON) - LAYER_NORM_EPSILON) > 1e-12:
        require_setting(values, "layer_norm_epsilon", LAYER_NORM_EPSILON)
    require_setting(values, "scale_attn_weights", True)
    require_setting(values, "scale_attn_by_inverse_layer_idx", False)
    require_setting(values, "add_cross_attention", False)
    dim = require_size(values, "n_embd")
    return Config(
        vocab_size=require_size(values, "vocab_size"),
        context_length=require_size(values, "n_positions", "n_ctx"),
        dim=dim,
        layers=require_size(values, "n_layer"),
        heads=require_size(values, "n_head"),
        ffn_dim=require_size(values, "n_inner") if values.get("n_inner") is not None else 4 * dim,
        activation=require_choice(values, "activation_function", "gelu_new", THEIR_ACTIVATIONS),
        tie_embeddings=require_flag(values, "tie_word_embeddings", True),
    )


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the weights."""
    table = [
        row("transformer.wte.weight", "embedding.weight"),
        row("transformer.wpe.weight", "positions.weight"),
        *linear_rows("transformer.ln_f", "norm", bias=True),
    ]
    for layer in range(config.layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        heads = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
        table += [
            *linear_rows(f"{theirs}.ln_1", f"{ours}.attention_norm", bias=True),
            *linear_rows(f"{theirs}.attn.c_attn", *heads, bias=True, transposed=True),
            *linear_rows(f"{theirs}.attn.c_proj", f"{ours}.attention.output", bias=True, transposed=True),
            *linear_rows(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", bias=True),
            *linear_rows(f"{theirs}.mlp.c_fc", f"{ours}.feed_forward.up", bias=True, transposed=True),
            *linear_rows(f"{theirs}.mlp.c_proj", f"{ours}.feed_forward.down", bias=True, transposed=True),
        ]
    return table if config.tie_embeddings else [*table, row("lm_head.weight", "head.weight")]
