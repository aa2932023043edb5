"""Tests that llama.cpp is measured with the same network: if installed, it generates the same token ids."""

from typing import Any

import numpy as np
import pytest

from benchmarks.peers import decoders_llama_cpp
from benchmarks.peers.decoders_llama_cpp import LlamaCpp, supports, tensors
from benchmarks.peers.decoders_torch import available_baselines
from fabella.benchmark.decode_task import GREEDY, DecodeTask
from fabella.engine.build_model_torch import load_model
from fabella.errors import FabellaError
from fabella.generation.generate_torch import generate
from fabella.models.parameters import count, initial_weights
from fabella.run_config.files import preset

SMALL = {"layers": 2, "vocab_size": 300, "dim": 64, "ffn_dim": 96, "init_std": 0.2}
"""Weights so large that sequences differ and no two token ids are almost equally likely."""
LLAMA = preset("piny-37m").model.model_copy(update=SMALL)
GPT2 = preset("tinystories-8m").model.model_copy(update=SMALL)
UNTIED = LLAMA.model_copy(update={"tie_embeddings": False})
REASON = "llama-cpp-python and gguf are peers: `make bench-peers` installs them"


@pytest.fixture
def installed() -> None:
    for package in decoders_llama_cpp.PACKAGES:
        pytest.importorskip(package, reason=REASON)


def fabella_ids(task: DecodeTask) -> list[list[int]]:
    """Return the token ids that Fabella generates, [B, T]."""
    config, prompts = task.config, list(task.prompts)
    model: Any = load_model(config, initial_weights(config.parameters(), seed=1), "cpu")
    options: Any = {"rows": [0] * len(prompts), "max_tokens": task.tokens, "vocab_size": config.vocab_size}
    return np.stack(list(generate(model, prompts, GREEDY, **options)), axis=1).tolist()


@pytest.mark.parametrize("config", [LLAMA, UNTIED, GPT2], ids=["llama", "llama, untied head", "gpt2"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.usefixtures("installed")
def test_llama_cpp_generates_the_same_token_ids(config: Any, batch: int) -> None:
    task = DecodeTask(config, batch, 8, 40)
    decoder = LlamaCpp(task, threads=1)
    first = np.stack(decoder.generate(task.prompts, task.tokens), axis=1).tolist()
    second = np.stack(decoder.generate(task.prompts, task.tokens), axis=1).tolist()
    decoder.close()
    assert first == second == fabella_ids(task)


@pytest.mark.usefixtures("installed")
def test_llama_cpp_is_among_the_baselines_and_reports_its_errors() -> None:
    task = DecodeTask(LLAMA, 2, 8, 4)
    decoder = next(baseline for baseline in available_baselines(task) if baseline.name == "llama.cpp")
    assert decoder.decode() > 0
    assert isinstance(decoder, LlamaCpp)
    with pytest.raises(FabellaError, match=r"^llama\.cpp's llama_decode ended with code "):
        decoder.generate(task.prompts, 1000)
    decoder.close()


def test_the_exact_gelu_and_other_families_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_llama_cpp, "PACKAGES", ("json",))
    assert supports(LLAMA)
    assert supports(GPT2)
    assert not supports(GPT2.model_copy(update={"activation": "gelu"}))
    assert not supports(preset("mingru-17m").model)
    monkeypatch.setattr(decoders_llama_cpp, "PACKAGES", ("json", "not_installed_anywhere"))
    assert not supports(LLAMA)


@pytest.mark.parametrize("config", [UNTIED, GPT2], ids=["llama", "gpt2"])
def test_the_gguf_file_contains_every_weight(config: Any) -> None:
    stored = tensors(config)
    assert sum(tensor.size for tensor in stored.values()) == count(config.parameters())
    np.testing.assert_array_equal(
        stored["token_embd.weight"], initial_weights(config.parameters(), seed=1)["embedding.weight"]
    )


def test_rotary_dims_are_interleaved() -> None:
    """Row i of a head of E rows moves to 2i, row i + E/2 to 2i + 1."""
    ours, theirs = initial_weights(LLAMA.parameters(), seed=1)["blocks.1.attention.key.weight"], tensors(LLAMA)
    head = LLAMA.dim // LLAMA.heads
    np.testing.assert_array_equal(theirs["blk.1.attn_k.weight"][0:head:2], ours[: head // 2])
    np.testing.assert_array_equal(theirs["blk.1.attn_k.weight"][1:head:2], ours[head // 2 : head])
