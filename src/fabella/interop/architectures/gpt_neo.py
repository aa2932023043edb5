"""GPTNeoForCausalLM: the published TinyStories models, GPT-Neo."""

from collections.abc import Mapping
from typing import Any

from fabella.errors import UsageError
from fabella.interop.architectures.architecture import require_choice, require_flag, require_number, require_size
from fabella.interop.architectures.gpt2 import ACTIVATIONS, THEIR_ACTIVATIONS
from fabella.interop.tensor_map import TensorRow, linear_rows, row
from fabella.models.gpt_neo import Config

FAMILIES = frozenset({"gpt_neo"})
MODEL_TYPES = frozenset({"gpt_neo"})
IGNORED = (".attn.attention.bias", ".attn.attention.masked_bias")
PREFIX = "transformer."
KINDS = {"global": "g", "local": "l"}
MAX_LAYERS = 512


def to_config(config: Config) -> dict[str, Any]:
    """Return the ``config.json``."""
    letters = (config.layer_pattern * config.layers)[: config.layers]
    names = {letter: name for name, letter in KINDS.items()}
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "attention_types": [[[names[letter] for letter in letters], 1]],
        "window_size": config.window,
        "activation_function": ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "resid_dropout": config.dropout,
        "embed_dropout": config.dropout,
        "attention_dropout": 0.0,
    }


def from_config(values: Mapping[str, Any]) -> Config:
    """Return the config of the family ``gpt_neo``. Raises UsageError for a feature that it lacks."""
    dim, layers = require_size(values, "hidden_size"), require_size(values, "num_layers")
    inner = values.get("intermediate_size")
    return Config(
        vocab_size=require_size(values, "vocab_size"),
        context_length=require_size(values, "max_position_embeddings"),
        dim=dim,
        layers=layers,
        heads=require_size(values, "num_heads"),
        ffn_dim=4 * dim if inner is None else require_size(values, "intermediate_size"),
        layer_pattern=_pattern(values, layers),
        window=require_size(values, "window_size"),
        activation=require_choice(values, "activation_function", "gelu_new", THEIR_ACTIVATIONS),
        norm_eps=require_number(values, "layer_norm_epsilon", 1e-5),
        tie_embeddings=require_flag(values, "tie_word_embeddings", True),
    )


def _pattern(values: Mapping[str, Any], layers: int) -> str:
    """Return one letter per layer. Raises UsageError unless they are as many as there are layers."""
    names = values.get("attention_layers")
    if names is None:
        names = []
        for item in values.get("attention_types") or [[["global", "local"], layers // 2]]:
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], list) and type(item[1]) is int):
                names = None
                break
            names += item[0] * min(item[1], MAX_LAYERS)
    if not isinstance(names, list) or len(names) != layers or not all(name in KINDS for name in names):
        raise UsageError(
            f"config.json: attention_types does not give global or local for each of {layers} layers.",
            hint="Get the file again from the source of the model.",
        )
    letters = "".join(KINDS[name] for name in names)
    periods = (n for n in range(1, len(letters) + 1) if (letters[:n] * layers)[:layers] == letters)
    return letters[: next(periods)]


def rows(config: Config) -> list[TensorRow]:
    """Return names and layouts of the weights."""
    table = [
        row("transformer.wte.weight", "embedding.weight"),
        row("transformer.wpe.weight", "positions.weight"),
        *linear_rows("transformer.ln_f", "norm", bias=True),
    ]
    for layer in range(config.layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        attention = f"{theirs}.attn.attention"
        table += [
            *linear_rows(f"{theirs}.ln_1", f"{ours}.attention_norm", bias=True),
            *linear_rows(f"{attention}.q_proj", f"{ours}.attention.query"),
            *linear_rows(f"{attention}.k_proj", f"{ours}.attention.key"),
            *linear_rows(f"{attention}.v_proj", f"{ours}.attention.value"),
            *linear_rows(f"{attention}.out_proj", f"{ours}.attention.output", bias=True),
            *linear_rows(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", bias=True),
            *linear_rows(f"{theirs}.mlp.c_fc", f"{ours}.feed_forward.up", bias=True),
            *linear_rows(f"{theirs}.mlp.c_proj", f"{ours}.feed_forward.down", bias=True),
        ]
    return table if config.tie_embeddings else [*table, row("lm_head.weight", "head.weight")]
