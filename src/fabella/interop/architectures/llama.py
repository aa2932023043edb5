"""LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM, with the families ``llama`` and ``qwen``."""

from collections.abc import Mapping
from typing import Any

from fabella.errors import UsageError
from fabella.interop.architectures.architecture import (
    require_flag,
    require_number,
    require_setting,
    require_size,
    rotary_settings,
)
from fabella.interop.tensor_map import TensorRow, linear_rows, row
from fabella.models import llama, qwen

FAMILIES = frozenset({"llama", "qwen"})
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
IGNORED = (".rotary_emb.inv_freq",)
PREFIX = "model."
MISTRAL_WINDOW = 4096
"""Window of a Mistral whose config.json has none."""
Config = llama.Config | qwen.Config


def to_config(config: Config) -> dict[str, Any] | None:
    """Return the ``config.json``; None for norms of queries and keys with biases, which no class has."""
    if isinstance(config, llama.Config):
        model_type, head_dim, std = "llama", config.dim // config.heads, config.init_std
    elif config.qk_norm and config.qkv_bias:
        return None
    else:
        model_type = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
        head_dim, std = config.head_dim, qwen.INIT.std
    classes = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    values: dict[str, Any] = {
        "architectures": [classes[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": std,
        "attention_dropout": 0.0,
    }
    if model_type != "qwen2":
        values["attention_bias"] = False
    if model_type == "llama":
        values["mlp_bias"] = False
    else:
        values["use_sliding_window"] = False
    if isinstance(config, qwen.Config) and not isinstance(config.rotary_scaling, qwen.UnscaledRotary):
        values["rope_scaling"] = _to_scaling(config.rotary_scaling)
    return values


def from_config(values: Mapping[str, Any]) -> Config:
    """Return the config of the family ``llama``, or of ``qwen`` if the model needs it. Raises UsageError."""
    model_type = values.get("model_type", "llama")
    require_setting(values, "hidden_act", "silu")
    require_setting(values, "mlp_bias", False)
    require_setting(values, "pretraining_tp", 1)
    require_setting(values, "use_sliding_window", False, None)
    if model_type == "mistral":
        _require_full_attention(values)
    require_setting(values, "attention_bias", False)
    dim, heads = require_size(values, "hidden_size"), require_size(values, "num_attention_heads")
    default = dim // heads if dim % heads == 0 else 128
    head_dim = require_size(values, "head_dim") if values.get("head_dim") is not None else default
    rope = rotary_settings(values)
    scaling = _from_scaling(rope)
    sizes: dict[str, Any] = {
        "vocab_size": require_size(values, "vocab_size"),
        "context_length": require_size(values, "max_position_embeddings"),
        "dim": dim,
        "layers": require_size(values, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": require_size(values, "num_key_value_heads", "num_attention_heads"),
        "ffn_dim": require_size(values, "intermediate_size"),
        "rotary_base": require_number(rope, "rope_theta", require_number(values, "rope_theta", 10_000.0)),
        "norm_eps": require_number(values, "rms_norm_eps", 1e-6),
        "tie_embeddings": require_flag(values, "tie_word_embeddings", False),
    }
    bias, qk_norm = model_type == "qwen2", model_type == "qwen3"
    if bias or qk_norm or head_dim * heads != dim or not isinstance(scaling, qwen.UnscaledRotary):
        return qwen.Config(**sizes, head_dim=head_dim, rotary_scaling=scaling, qkv_bias=bias, qk_norm=qk_norm)
    return llama.Config(**sizes)


def _require_full_attention(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a Mistral whose window is shorter than its context: without one it is ``MISTRAL_WINDOW``."""
    window = values.get("sliding_window", MISTRAL_WINDOW)
    if window is not None:
        size = require_size({"sliding_window": window}, "sliding_window")
        if size < require_size(values, "max_position_embeddings"):
            raise UsageError(
                f"Cannot import a model with sliding_window = {size}.",
                hint="Supported: sliding_window = None, or at least max_position_embeddings.",
            )


def _to_scaling(scaling: qwen.RotaryScaling) -> dict[str, Any]:
    if isinstance(scaling, qwen.Llama3Rotary):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    assert isinstance(scaling, qwen.LinearRotary)
    return {"rope_type": "linear", "factor": scaling.factor}


def _from_scaling(rope: Mapping[str, Any]) -> qwen.RotaryScaling:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return qwen.LinearRotary(factor=require_number(rope, "factor", 1.0))
    if kind == "llama3":
        return qwen.Llama3Rotary(
            factor=require_number(rope, "factor", 8.0),
            low_frequency_factor=require_number(rope, "low_freq_factor", 1.0),
            high_frequency_factor=require_number(rope, "high_freq_factor", 4.0),
            original_context_length=require_size(rope, "original_max_position_embeddings"),
        )
    require_setting({"rope_type": kind}, "rope_type", "default", "linear", "llama3")
    return qwen.UnscaledRotary()


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the weights."""
    bias = isinstance(config, qwen.Config) and config.qkv_bias
    norms = isinstance(config, qwen.Config) and config.qk_norm
    table = [row("model.embed_tokens.weight", "embedding.weight"), row("model.norm.weight", "norm.weight")]
    for layer in range(config.layers):
        theirs, ours = f"model.layers.{layer}", f"blocks.{layer}"
        table += [
            row(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.weight"),
            *linear_rows(f"{theirs}.self_attn.q_proj", f"{ours}.attention.query", bias=bias),
            *linear_rows(f"{theirs}.self_attn.k_proj", f"{ours}.attention.key", bias=bias),
            *linear_rows(f"{theirs}.self_attn.v_proj", f"{ours}.attention.value", bias=bias),
            *linear_rows(f"{theirs}.self_attn.o_proj", f"{ours}.attention.output"),
            row(f"{theirs}.post_attention_layernorm.weight", f"{ours}.feed_forward_norm.weight"),
            *linear_rows(f"{theirs}.mlp.gate_proj", f"{ours}.feed_forward.gate"),
            *linear_rows(f"{theirs}.mlp.up_proj", f"{ours}.feed_forward.up"),
            *linear_rows(f"{theirs}.mlp.down_proj", f"{ours}.feed_forward.down"),
        ]
        if norms:
            table += [
                row(f"{theirs}.self_attn.q_norm.weight", f"{ours}.attention.query_norm.weight"),
                row(f"{theirs}.self_attn.k_norm.weight", f"{ours}.attention.key_norm.weight"),
            ]
    return table if config.tie_embeddings else [*table, row("lm_head.weight", "head.weight")]
