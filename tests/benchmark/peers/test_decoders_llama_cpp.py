"""llama.cpp is measured with the same network: where it is installed, it tells the same ids."""

from typing import Any

import numpy as np
import pytest

from fabella.benchmark.decode_task import GREEDY, DecodeTask
from fabella.benchmark.peers import decoders_llama_cpp
from fabella.benchmark.peers.decoders_llama_cpp import LlamaCpp, supports, tensors
from fabella.benchmark.peers.decoders_torch import available_baselines
from fabella.engine.engine_torch import load_model
from fabella.errors import FabellaError
from fabella.generation.generate_torch import generate
from fabella.models.parameters import count, initial_weights
from fabella.run_config.files import preset

SMALL = {"layers": 2, "vocab_size": 300, "dim": 64, "ffn_dim": 96, "init_std": 0.2}
"""Weights so large that texts differ, and no two ids are nearly as likely."""
LLAMA = preset("piny-37m").model.model_copy(update=SMALL)
GPT2 = preset("tinystories-8m").model.model_copy(update=SMALL)
UNTIED = LLAMA.model_copy(update={"tie_embeddings": False})
NEEDED = "llama-cpp-python and gguf are peers: `make bench-peers` installs them"


@pytest.fixture
def installed() -> None:
    for package in decoders_llama_cpp.PACKAGES:
        pytest.importorskip(package, reason=NEEDED)


def fabellas(telling: DecodeTask) -> list[list[int]]:
    """[B T] ids."""
    config, prompts = telling.config, list(telling.prompts)
    model: Any = load_model(config, initial_weights(config.parameters(), seed=1), "cpu")
    wanted: Any = {"rows": [0] * len(prompts), "max_tokens": telling.tokens, "vocab_size": config.vocab_size}
    return np.stack(list(generate(model, prompts, GREEDY, **wanted)), axis=1).tolist()


@pytest.mark.parametrize("config", [LLAMA, UNTIED, GPT2], ids=["llama", "llama, a head of its own", "gpt2"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.usefixtures("installed")
def test_it_tells_what_fabella_tells(config: Any, batch: int) -> None:
    telling = DecodeTask(config, batch, 8, 40)
    who = LlamaCpp(telling, threads=1)
    told = np.stack(who.told(telling.prompts, telling.tokens), axis=1).tolist()
    again = np.stack(who.told(telling.prompts, telling.tokens), axis=1).tolist()
    who.close()
    assert told == again == fabellas(telling)


@pytest.mark.usefixtures("installed")
def test_it_is_among_the_peers_and_says_what_it_cannot() -> None:
    telling = DecodeTask(LLAMA, 2, 8, 4)
    who = next(one for one in available_baselines(telling, alone=False) if one.name == "llama.cpp")
    assert who.tell() > 0
    assert isinstance(who, LlamaCpp)
    with pytest.raises(FabellaError, match=r"^llama\.cpp's llama_decode ended with code "):
        who.told(telling.prompts, 1000)
    who.close()


def test_another_gelu_and_other_families_are_not_its(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_llama_cpp, "PACKAGES", ("json",))
    assert supports(LLAMA)
    assert supports(GPT2)
    assert not supports(GPT2.model_copy(update={"activation": "gelu"}))
    assert not supports(preset("mingru-17m").model)
    monkeypatch.setattr(decoders_llama_cpp, "PACKAGES", ("json", "not_installed_anywhere"))
    assert not supports(LLAMA)


@pytest.mark.parametrize("config", [UNTIED, GPT2], ids=["llama", "gpt2"])
def test_its_file_holds_every_weight(config: Any) -> None:
    held = tensors(config)
    assert sum(tensor.size for tensor in held.values()) == count(config.parameters())
    np.testing.assert_array_equal(
        held["token_embd.weight"], initial_weights(config.parameters(), seed=1)["embedding.weight"]
    )


def test_dims_that_turn_together_lie_side_by_side() -> None:
    """Row i of a head of E rows comes to 2i, row i + E/2 to 2i + 1."""
    ours, theirs = initial_weights(LLAMA.parameters(), seed=1)["blocks.1.attention.key.weight"], tensors(LLAMA)
    head = LLAMA.dim // LLAMA.heads
    np.testing.assert_array_equal(theirs["blk.1.attn_k.weight"][0:head:2], ours[: head // 2])
    np.testing.assert_array_equal(theirs["blk.1.attn_k.weight"][1:head:2], ours[head // 2 : head])
