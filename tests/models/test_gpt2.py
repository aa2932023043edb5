"""Tests that GPT-2 has the published counts and the logits of Hugging Face's model, and tests its errors."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fabella.models.gpt2 import Config
from fabella.models.gpt2_torch import Model
from fabella.models.parameters import count, count_non_embedding, initial_weights
from fabella.run_config.files import preset, preset_names

# Two implementations sum float32 numbers in different orders.
LOGITS_TOLERANCE = 1e-4

PUBLISHED = {
    "gpt2-92m": (91_605_384, 22_503_600),
    "tinystories-1m": (3_747_520, 400_000),
    "tinystories-8m": (19_708_672, 6_318_592),
    "tinystories-28m": (52_000_256, 25_220_096),
}
TINY = {"vocab_size": 61, "context_length": 48, "dim": 24, "layers": 2, "heads": 3, "ffn_dim": 40}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    table = preset(name).model.parameters()
    assert (count(table), count_non_embedding(table)) == PUBLISHED[name]


def test_every_preset_of_the_family_is_counted() -> None:
    assert {name for name in preset_names() if preset(name).model.family == "gpt2"} == set(PUBLISHED)


def as_hf_names(config: Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of GPT2LMHeadModel, which stores matrices as input × output."""
    renamed = {
        "transformer.wte.weight": weights["embedding.weight"],
        "transformer.wpe.weight": weights["positions.weight"],
    }
    renamed["lm_head.weight"] = weights.get("head.weight", weights["embedding.weight"])
    same = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
    transposed = {"attention.output": "attn.c_proj", "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj"}
    for part in ("weight", "bias"):
        renamed[f"transformer.ln_f.{part}"] = weights[f"norm.{part}"]
        for layer in range(config.layers):
            prefix, hf_prefix = f"blocks.{layer}", f"transformer.h.{layer}"
            qkv = [weights[f"{prefix}.attention.{name}.{part}"] for name in ("query", "key", "value")]
            renamed[f"{hf_prefix}.attn.c_attn.{part}"] = torch.cat(qkv).t()
            renamed |= {f"{hf_prefix}.{hf}.{part}": weights[f"{prefix}.{name}.{part}"] for name, hf in same.items()}
            renamed |= {
                f"{hf_prefix}.{hf}.{part}": weights[f"{prefix}.{name}.{part}"].t() for name, hf in transposed.items()
            }
    return renamed


def hf_model(config: Config) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.dim,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.ffn_dim,
            activation_function="gelu_new" if config.activation == "gelu_tanh" else "gelu",
            tie_word_embeddings=config.tie_embeddings,
        )
    ).eval()


CONFIGS = {name: preset(name).model for name in PUBLISHED} | {
    "untied": Config(**TINY, tie_embeddings=False),
    "tie_embeddings": Config(**TINY, tie_embeddings=True, activation="gelu_tanh"),
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
        ({"dim": 27, "heads": 4}, "dim = 27 is not a multiple of heads = 4; try heads = 3"),
        ({"layers": 512, "dim": 16384, "heads": 16}, "more than 10,000,000,000; try a smaller dim"),
    ],
)
def test_invalid_sizes_are_errors_that_suggest_the_nearest_valid_one(change: dict[str, int], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config(**{**TINY, **change})
