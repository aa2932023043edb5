"""LlamaForCausalLM."""

from collections.abc import Mapping
from typing import Any

from fabella.interop.architectures.architecture import require_number, require_setting, require_size
from fabella.interop.tensor_map import TensorRow, linear_rows, row
from fabella.models.llama import Config

FAMILIES = frozenset({"llama"})
MODEL_TYPES = frozenset({"llama"})
IGNORED = (".rotary_emb.inv_freq",)


def to_config(config: Config) -> dict[str, Any]:
    """Return the ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.dim // config.heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }


def from_config(values: Mapping[str, Any]) -> Config:
    """Return the config of the family ``llama``. Raises UsageError for a feature that it lacks."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    require_setting(rope, "rope_type", "default")
    require_setting(rope, "type", "default")
    for name in ("attention_bias", "mlp_bias"):
        require_setting(values, name, False)
    require_setting(values, "hidden_act", "silu")
    dim, heads = require_size(values, "hidden_size"), require_size(values, "num_attention_heads")
    require_setting(values, "head_dim", dim // heads, None)
    base = require_number(rope, "rope_theta", require_number(values, "rope_theta", 10_000.0))
    return Config(
        vocab_size=require_size(values, "vocab_size"),
        context_length=require_size(values, "max_position_embeddings"),
        dim=dim,
        layers=require_size(values, "num_hidden_layers"),
        heads=heads,
        kv_heads=require_size(values, "num_key_value_heads", "num_attention_heads"),
        ffn_dim=require_size(values, "intermediate_size"),
        rotary_base=base,
        norm_eps=require_number(values, "rms_norm_eps", 1e-6),
        tie_embeddings=values.get("tie_word_embeddings", False) is True,
    )


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the weights."""
    table = [row("model.embed_tokens.weight", "embedding.weight"), row("model.norm.weight", "norm.weight")]
    for layer in range(config.layers):
        theirs, ours = f"model.layers.{layer}", f"blocks.{layer}"
        table += [
            row(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.weight"),
            *(
                linear
                for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
                for linear in linear_rows(f"{theirs}.self_attn.{letter}_proj", f"{ours}.attention.{name}")
            ),
            row(f"{theirs}.post_attention_layernorm.weight", f"{ours}.feed_forward_norm.weight"),
            *(
                linear
                for name in ("gate", "up", "down")
                for linear in linear_rows(f"{theirs}.mlp.{name}_proj", f"{ours}.feed_forward.{name}")
            ),
        ]
    return table if config.tie_embeddings else [*table, row("lm_head.weight", "head.weight")]
