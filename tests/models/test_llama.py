"""Tests that Llama has the published count and the logits of Hugging Face's model, and tests its errors."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fabella.models.llama import Config
from fabella.models.llama_torch import Model
from fabella.models.parameters import count, count_non_embedding, initial_weights
from fabella.run_config.files import preset, preset_names

# Two implementations sum float32 numbers in different orders.
LOGITS_TOLERANCE = 1e-4

TINY = {"vocab_size": 61, "context_length": 48, "dim": 24, "layers": 2, "heads": 6, "kv_heads": 2, "ffn_dim": 40}


def test_published_count() -> None:
    table = preset("piny-37m").model.parameters()
    assert (count(table), count_non_embedding(table)) == (37_362_432, 24_779_520)


def test_the_quickstart_preset_has_about_a_million_parameters() -> None:
    assert 0.9e6 < count(preset("storybook-1m").model.parameters()) < 1.5e6


def as_hf_names(config: Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of LlamaForCausalLM."""
    renamed = {"model.embed_tokens.weight": weights["embedding.weight"], "model.norm.weight": weights["norm.weight"]}
    renamed["lm_head.weight"] = weights.get("head.weight", weights["embedding.weight"])
    names = {
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    }
    for layer in range(config.layers):
        for name, hf_name in names.items():
            renamed[f"model.layers.{layer}.{hf_name}.weight"] = weights[f"blocks.{layer}.{name}.weight"]
    return renamed


def hf_model(config: Config) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context_length,
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.ffn_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},
            tie_word_embeddings=config.tie_embeddings,
        )
    ).eval()


CONFIGS = {name: preset(name).model for name in preset_names() if preset(name).model.family == "llama"} | {
    "untied": Config(**TINY, tie_embeddings=False),
    "tie_embeddings": Config(**TINY, tie_embeddings=True, norm_eps=1e-6, rotary_base=500.0),
    "one key/value head": Config(**{**TINY, "kv_heads": 1}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_hf(name: str) -> None:
    """The weights are large enough for every module to affect the logits."""
    config = CONFIGS[name]
    assert isinstance(config, Config)
    random = torch.Generator().manual_seed(1)
    weights = {n: torch.from_numpy(w) for n, w in initial_weights(config.parameters(), seed=1).items()}
    weights = {n: w + 0.05 * torch.randn(w.shape, generator=random) if w.dim() == 1 else w for n, w in weights.items()}
    hf = hf_model(config)
    hf.load_state_dict(as_hf_names(config, weights), strict=True)
    model = Model(config).eval()
    model.load_state_dict(weights, strict=True)
    tokens = torch.randint(config.vocab_size, (2, 40), generator=random)
    with torch.no_grad():
        difference = (model(tokens) - hf(tokens).logits).abs().max()
    assert difference <= LOGITS_TOLERANCE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dim": 768, "heads": 10}, "dim = 768 is not a multiple of heads = 10; try heads = 8"),
        ({"kv_heads": 4}, "heads = 6 is not a multiple of kv_heads = 4; try kv_heads = 3"),
        ({"dim": 18}, "dim / heads = 3 is not an even number; dims rotate in pairs; try fewer heads"),
        ({"norm_eps": float("nan")}, "finite number"),
    ],
)
def test_invalid_sizes_are_errors_that_suggest_the_nearest_valid_one(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config(**{**TINY, **change})
