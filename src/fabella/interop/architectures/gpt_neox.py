"""GPTNeoXForCausalLM: Pythia, GPT-NeoX."""

from collections.abc import Mapping
from typing import Any

from fabella.interop.architectures.architecture import (
    require_choice,
    require_flag,
    require_number,
    require_setting,
    require_size,
    rotary_settings,
)
from fabella.interop.architectures.gpt2 import ACTIVATIONS, THEIR_ACTIVATIONS
from fabella.interop.tensor_map import TensorRow, linear_rows, row
from fabella.models.gpt_neox import Config

FAMILIES = frozenset({"gpt_neox"})
MODEL_TYPES = frozenset({"gpt_neox"})
IGNORED = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
PREFIX = "gpt_neox."


def to_config(config: Config) -> dict[str, Any]:
    """Return the ``config.json``."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": ACTIVATIONS[config.activation],
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rotary_base,
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": True,
        "attention_bias": True,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "hidden_dropout": config.dropout,
        "attention_dropout": 0.0,
    }


def from_config(values: Mapping[str, Any]) -> Config:
    """Return the config of the family ``gpt_neox``. Raises UsageError for a feature that it lacks."""
    require_setting(values, "use_parallel_residual", True)
    require_setting(values, "attention_bias", True)
    rope = rotary_settings(values)
    require_setting(rope, "rope_type", "default")
    require_setting(rope, "type", "default")
    fraction = require_number(values, "rotary_pct", require_number(rope, "partial_rotary_factor", 0.25))
    base = require_number(rope, "rope_theta", require_number(values, "rope_theta", 10_000.0))
    return Config(
        vocab_size=require_size(values, "vocab_size"),
        context_length=require_size(values, "max_position_embeddings"),
        dim=require_size(values, "hidden_size"),
        layers=require_size(values, "num_hidden_layers"),
        heads=require_size(values, "num_attention_heads"),
        ffn_dim=require_size(values, "intermediate_size"),
        rotary_fraction=fraction,
        rotary_base=require_number(values, "rotary_emb_base", base),
        activation=require_choice(values, "hidden_act", "gelu", THEIR_ACTIVATIONS),
        norm_eps=require_number(values, "layer_norm_eps", 1e-5),
        tie_embeddings=require_flag(values, "tie_word_embeddings", False),
    )


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the weights."""
    table = [
        row("gpt_neox.embed_in.weight", "embedding.weight"),
        *linear_rows("gpt_neox.final_layer_norm", "norm", bias=True),
    ]
    for layer in range(config.layers):
        theirs, ours = f"gpt_neox.layers.{layer}", f"blocks.{layer}"
        heads = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
        table += [
            *linear_rows(f"{theirs}.input_layernorm", f"{ours}.attention_norm", bias=True),
            *linear_rows(f"{theirs}.attention.query_key_value", *heads, bias=True, per_head=config.heads),
            *linear_rows(f"{theirs}.attention.dense", f"{ours}.attention.output", bias=True),
            *linear_rows(f"{theirs}.post_attention_layernorm", f"{ours}.feed_forward_norm", bias=True),
            *linear_rows(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feed_forward.up", bias=True),
            *linear_rows(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feed_forward.down", bias=True),
        ]
    return table if config.tie_embeddings else [*table, row("embed_out.weight", "head.weight")]
