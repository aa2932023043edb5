"""Fabella's architectures in other libraries, the baselines of the training benchmark.

constraints-peers.txt lists their versions; Fabella itself needs none of them.
"""

import importlib
import importlib.util
from typing import Any

from torch import nn

from benchmarks.peers.nanogpt_torch import NanoGPT
from fabella.benchmark.step_parts_torch import Loss
from fabella.models.model_config import ModelConfig

PACKAGES = {"gpt2": ["transformers"], "llama": ["transformers", "litgpt"], "mingru": ["minGRU_pytorch"]}
"""Packages that have a family; the first one is the fastest at decoding."""


def peer_of(config: ModelConfig) -> str:
    """Return the package that decodes this family, or an empty string if none is installed."""
    package = PACKAGES.get(config.family, [""])[0]
    return package if package and importlib.util.find_spec(package) else ""


def peers_of(config: ModelConfig) -> list[str]:
    """Return the installed packages that have this family, and ``nanogpt`` for GPT-2."""
    installed = [package for package in PACKAGES.get(config.family, []) if importlib.util.find_spec(package)]
    return [*installed, *(["nanogpt"] if config.family == "gpt2" else [])]


def build_peer(config: Any, name: str = "") -> tuple[nn.Module, Loss]:
    """Build the model of a peer with the sizes of ``config``, and its loss; by default that of the first package."""
    if name == "nanogpt":
        model = NanoGPT(config)
        return model, lambda tokens: model(tokens[:, :-1], tokens[:, 1:])
    if name == "litgpt":
        return _litgpt(config)
    package = importlib.import_module(PACKAGES[config.family][0])
    return {"gpt2": _hf_gpt2, "llama": _hf_llama, "mingru": _mingru}[config.family](package, config)


def _hf_gpt2(package: Any, c: Any) -> tuple[nn.Module, Loss]:
    sizes = {
        "n_embd": c.dim,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_inner": c.ffn_dim,
        "n_positions": c.context_length,
    }
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    activation = "gelu_new" if c.activation == "gelu_tanh" else "gelu"
    config = package.GPT2Config(
        vocab_size=c.vocab_size, activation_function=activation, tie_word_embeddings=c.tie_embeddings, **sizes, **off
    )
    return _hf_loss(package.GPT2LMHeadModel(config))


def _hf_llama(package: Any, c: Any) -> tuple[nn.Module, Loss]:
    heads = {"num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads}
    sizes = {"hidden_size": c.dim, "num_hidden_layers": c.layers, "intermediate_size": c.ffn_dim}
    config = package.LlamaConfig(
        vocab_size=c.vocab_size, max_position_embeddings=c.context_length, tie_word_embeddings=c.tie_embeddings,
        use_cache=False, rms_norm_eps=c.norm_eps, **heads, **sizes,
    )  # fmt: skip
    return _hf_loss(package.LlamaForCausalLM(config))


def _hf_loss(model: Any) -> tuple[nn.Module, Loss]:
    # HF shifts the labels itself: with T + 1 tokens it would compute one position more than Fabella.
    return model, lambda tokens: model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss


def _litgpt(c: Any) -> tuple[nn.Module, Loss]:
    packages = ("litgpt.config", "litgpt.model", "litgpt.utils")
    config, model, utils = (importlib.import_module(package) for package in packages)
    sizes = {"n_embd": c.dim, "n_layer": c.layers, "n_head": c.heads, "n_query_groups": c.kv_heads}
    llama = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "parallel_residual": False, "bias": False}
    built = model.GPT(config.Config(
        vocab_size=c.vocab_size, padded_vocab_size=c.vocab_size, block_size=c.context_length,
        intermediate_size=c.ffn_dim, norm_eps=c.norm_eps, rotary_percentage=1.0, rope_base=int(c.rotary_base),
        **sizes, **llama,
    ))  # fmt: skip
    if c.tie_embeddings:
        built.transformer.wte.weight = built.lm_head.weight  # as its own trainer does
    return built, lambda tokens: utils.chunked_cross_entropy(built(tokens[:, :-1]), tokens[:, 1:])


def _mingru(package: Any, c: Any) -> tuple[nn.Module, Loss]:
    language_model = importlib.import_module(f"{package.__name__}.minLM").minLM
    model = language_model(
        num_tokens=c.vocab_size, dim=c.dim, depth=c.layers, ff_mult=c.ffn_dim / c.dim, expansion=c.expansion
    )
    return model, lambda tokens: model(tokens, return_loss=True)
