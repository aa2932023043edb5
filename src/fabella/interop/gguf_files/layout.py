"""Architectures of GGUF: sizes in the header, names and layouts of the tensors (llama.cpp's src/models)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import UsageError
from fabella.interop.tensor_map import TensorRow, Weights, linear_rows, pack, row, unpack
from fabella.models import gpt2, gpt_neox, llama, qwen

Config = llama.Config | qwen.Config | gpt2.Config | gpt_neox.Config
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gptneox")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
LAYER_NORM_EPSILON = 1e-5
ROTARY_FACTORS = "rope_freqs.weight"
"""What the rotary frequencies are divided by, as those of Llama 3.1 are."""
HINT = "Use --to hf, or --to safetensors."


def architecture_name(config: Any) -> str:
    """Return llama.cpp's architecture of a model. Raises UsageError if there is none that Fabella writes."""
    if isinstance(config, llama.Config):
        return "llama"
    if isinstance(config, gpt2.Config | gpt_neox.Config):
        name = "gpt2" if isinstance(config, gpt2.Config) else "gptneox"
        if config.activation == "gelu_tanh":
            return name
        raise UsageError(
            f"llama.cpp's {name} computes the tanh form of GELU only, and this model was trained with "
            f"model.activation={config.activation}.",
            hint=f"{HINT} To export GGUF, train with model.activation=gelu_tanh.",
        )
    unscaled = isinstance(config, qwen.Config) and isinstance(config.rotary_scaling, qwen.UnscaledRotary)
    if unscaled and not (config.qk_norm and config.qkv_bias):
        return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    raise UsageError(
        f"Fabella writes no architecture of GGUF that computes this model of family {config.family}.", hint=HINT
    )


def sizes(config: Config) -> dict[str, bool | int | float]:
    """Return the sizes in the header, by their keys without the architecture."""
    values: dict[str, bool | int | float] = {
        "context_length": config.context_length,
        "embedding_length": config.dim,
        "block_count": config.layers,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.heads,
    }
    if isinstance(config, gpt2.Config):
        return {**values, "attention.layer_norm_epsilon": LAYER_NORM_EPSILON}
    if isinstance(config, gpt_neox.Config):
        return {
            **values,
            "use_parallel_residual": True,
            "rope.dimension_count": config.rotary_dims,
            "rope.freq_base": config.rotary_base,
            "attention.layer_norm_epsilon": config.norm_eps,
        }
    head_dim = config.head_dim if isinstance(config, qwen.Config) else config.dim // config.heads
    return {
        **values,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": config.rotary_base,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }


def to_config(name: str, values: Mapping[str, Any], vocab_size: int, *, tied: bool) -> Config:
    """Return the config for the sizes of a header. Raises UsageError for an architecture or feature that is missing."""
    if name not in ARCHITECTURES:
        raise UsageError(
            f"Cannot import a GGUF file of architecture {name[:60]!r}.", hint=f"Supported: {', '.join(ARCHITECTURES)}."
        )
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context_length": _integer(values, name, "context_length"),
        "dim": _integer(values, name, "embedding_length"),
        "layers": _integer(values, name, "block_count"),
        "ffn_dim": _integer(values, name, "feed_forward_length"),
        "heads": _integer(values, name, "attention.head_count"),
        "tie_embeddings": tied,
    }
    config = _config(name, values, common)
    _require_supported(name, values, config)
    return config


def _config(name: str, values: Mapping[str, Any], common: dict[str, Any]) -> Config:
    if name == "gpt2":
        return gpt2.Config(**common, activation="gelu_tanh")
    scaling = values.get(f"{name}.rope.scaling.type", "none")
    if scaling not in ("none", ""):
        raise _unsupported("rope.scaling.type", scaling)
    if name == "gptneox":
        return _to_gpt_neox(values, common)
    head_dim = _integer(values, name, "attention.key_length", common["dim"] // max(common["heads"], 1))
    common |= {
        "kv_heads": _integer(values, name, "attention.head_count_kv", common["heads"]),
        "rotary_base": _number(values, f"{name}.rope.freq_base", 10_000.0),
        "norm_eps": _rounded(_number(values, f"{name}.attention.layer_norm_rms_epsilon", 1e-5)),
    }
    if name == "llama" and head_dim * common["heads"] == common["dim"]:
        return llama.Config(**common)
    return qwen.Config(**common, head_dim=head_dim, qkv_bias=name == "qwen2", qk_norm=name == "qwen3")


def _to_gpt_neox(values: Mapping[str, Any], common: Mapping[str, Any]) -> gpt_neox.Config:
    parallel = values.get("gptneox.use_parallel_residual")
    if parallel is not True:
        raise UsageError(
            f"Cannot import a GGUF file with gptneox.use_parallel_residual = {str(parallel)[:40]}.",
            hint="The family gpt_neox computes attention and MLP from the same input.",
        )
    rotated, head_dim = _integer(values, "gptneox", "rope.dimension_count"), common["dim"] // max(common["heads"], 1)
    return gpt_neox.Config(
        **common,
        activation="gelu_tanh",
        rotary_fraction=rotary_fraction(rotated, max(head_dim, 1)),
        rotary_base=_number(values, "gptneox.rope.freq_base", 10_000.0),
        norm_eps=_rounded(_number(values, "gptneox.attention.layer_norm_epsilon", 1e-5)),
    )


def rotary_fraction(rotated: int, head_dim: int) -> float:
    """Return the share of a head of which ``int(head_dim * share)`` dimensions are rotated: exactly ``rotated``."""
    share = rotated / head_dim
    return share if int(head_dim * share) == rotated else math.nextafter(share, 2.0)


def _rounded(value: float) -> float:
    """Return a float32 of the header as the decimal number that was meant: 1e-5 rather than 9.99999974e-06."""
    return float(f"{value:.6g}")


def _integer(values: Mapping[str, Any], name: str, key: str, default: int | None = None) -> int:
    value = values.get(f"{name}.{key}", default)
    if value is None:
        raise UsageError(f"The GGUF file has no {name}.{key}.", hint="Get the file again.")
    if not isinstance(value, int):
        raise _unsupported(f"{name}.{key}", value)
    return value


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if not isinstance(value, int | float):
        raise _unsupported(key, value)
    return float(value)


def _unsupported(key: str, value: object) -> UsageError:
    return UsageError(
        f"Cannot import a GGUF file with {key} = {str(value)[:40]}.",
        hint="Import the Hugging Face folder of the model instead.",
    )


def _require_supported(name: str, values: Mapping[str, Any], config: Config) -> None:
    """Raise UsageError for a value of the header that differs from what the config computes.

    For example part of a head that is rotated, another epsilon, or attention to a window of tokens.
    """
    for key, expected in sizes(config).items():
        found = values.get(f"{name}.{key}", expected)
        if not (isinstance(found, int | float) and math.isclose(found, expected, rel_tol=1e-5)):
            raise _unsupported(f"{name}.{key}", found)
    window, factor = (values.get(f"{name}.{key}") for key in ("attention.sliding_window", "rope.scale_linear"))
    if window and not (isinstance(window, int) and window >= config.context_length):
        raise _unsupported(f"{name}.attention.sliding_window", window)
    if factor not in (None, 0.0, 1.0):
        raise _unsupported(f"{name}.rope.scale_linear", factor)


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the tensors. The architecture ``llama`` rotates neighboring dimensions of a head."""
    architecture = architecture_name(config)
    biases = isinstance(config, gpt2.Config | gpt_neox.Config)
    table = [row(EMBEDDING, "embedding.weight"), *linear_rows("output_norm", "norm", bias=biases)]
    table += [row("position_embd.weight", "positions.weight")] if isinstance(config, gpt2.Config) else []
    for layer in range(config.layers):
        theirs, ours = f"blk.{layer}", f"blocks.{layer}"
        table += linear_rows(f"{theirs}.attn_norm", f"{ours}.attention_norm", bias=biases)
        table += linear_rows(f"{theirs}.ffn_norm", f"{ours}.feed_forward_norm", bias=biases)
        if isinstance(config, gpt2.Config | gpt_neox.Config):
            heads = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
            table += linear_rows(f"{theirs}.attn_qkv", *heads, bias=True)
        else:
            table += _attention_rows(config, architecture, theirs, ours)
            table += linear_rows(f"{theirs}.ffn_gate", f"{ours}.feed_forward.gate")
        table += linear_rows(f"{theirs}.attn_output", f"{ours}.attention.output", bias=biases)
        table += linear_rows(f"{theirs}.ffn_up", f"{ours}.feed_forward.up", bias=biases)
        table += linear_rows(f"{theirs}.ffn_down", f"{ours}.feed_forward.down", bias=biases)
    return table if config.tie_embeddings else [*table, row(HEAD, "head.weight")]


def to_tensors(config: Config, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a file. llama.cpp's ``gptneox`` has no tied head: then the head is written as well."""
    tensors = pack(rows(config), weights)
    if isinstance(config, gpt_neox.Config) and config.tie_embeddings:
        tensors[HEAD] = tensors[EMBEDDING]
    return tensors


def is_tied(name: str, tensors: Weights) -> bool:
    """Return whether the head is the embedding: it has no tensor or, where it must have one, the same values."""
    if HEAD not in tensors or EMBEDDING not in tensors:
        return HEAD not in tensors
    return name == "gptneox" and np.array_equal(tensors[HEAD], tensors[EMBEDDING])


def to_weights(config: Config, tensors: Weights, where: str) -> dict[str, NDArray[np.float32]]:
    """Return the weights of the parameter table. Raises CheckpointError or NumericsError, see ``unpack``."""
    if isinstance(config, gpt_neox.Config) and config.tie_embeddings:
        tensors = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    factors = tensors.get(ROTARY_FACTORS)
    if factors is not None and not (factors == 1).all():
        raise UsageError(
            f"Cannot import {where}: its rotary frequencies are scaled ({ROTARY_FACTORS}), as in Llama 3.1.",
            hint="Import the Hugging Face folder of the model instead.",
        )
    return unpack(rows(config), tensors, config.parameters(), where=where, ignored=[ROTARY_FACTORS])


def _attention_rows(config: llama.Config | qwen.Config, architecture: str, theirs: str, ours: str) -> list[TensorRow]:
    bias = isinstance(config, qwen.Config) and config.qkv_bias
    neighbors = architecture == "llama"
    query_heads, key_heads = (config.heads, config.kv_heads) if neighbors else (0, 0)
    table = [
        *linear_rows(f"{theirs}.attn_q", f"{ours}.attention.query", bias=bias, rotary_heads=query_heads),
        *linear_rows(f"{theirs}.attn_k", f"{ours}.attention.key", bias=bias, rotary_heads=key_heads),
        *linear_rows(f"{theirs}.attn_v", f"{ours}.attention.value", bias=bias),
    ]
    if isinstance(config, qwen.Config) and config.qk_norm:
        table += [
            row(f"{theirs}.attn_q_norm.weight", f"{ours}.attention.query_norm.weight"),
            row(f"{theirs}.attn_k_norm.weight", f"{ours}.attention.key_norm.weight"),
        ]
    return table
