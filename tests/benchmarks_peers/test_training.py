"""Tests that the peers of the training benchmark are the same networks, measured in the same rounds."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch

from benchmarks.peers import step_parts_jax
from benchmarks.peers.models_jax import LOSSES
from benchmarks.peers.models_torch import build_peer
from benchmarks.peers.nanogpt_torch import NanoGPT
from fabella.benchmark import training as benching
from fabella.benchmark.step_parts_torch import create_baseline
from fabella.benchmark.training import BenchOptions, bench, peak_memory
from fabella.engine.build_model_jax import build
from fabella.errors import UsageError
from fabella.models.nn.layers_jax import Params
from fabella.models.parameters import initial_weights
from fabella.run_config.files import preset

QUICK = BenchOptions(rounds=1, device="cpu", memory=False, package="benchmarks.peers")
SMALL = {
    "vocab_size": 61,
    "context_length": 16,
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "ffn_dim": 24,
    "dropout": 0.0,
}
# The same sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16), "tinystories-1m": (1, 8)})


def test_an_installed_peer_with_the_same_architecture_is_measured() -> None:
    pytest.importorskip("transformers")
    baselines = bench(["tinystories-1m"], QUICK)["shapes"]["tinystories-1m"]["baselines"]
    assert list(baselines) == ["fabella", "transformers", "nanogpt"]
    assert len({baseline["parameters"] for baseline in baselines.values()}) == 1


def test_only_selects_baselines_and_requires_fabella() -> None:
    options = replace(QUICK, only=("nanogpt", "fabella"))
    result = bench(["tinystories-1m"], options)["shapes"]["tinystories-1m"]
    assert (list(result["baselines"]), result["reference"]) == (["fabella", "nanogpt"], "fabella")
    with pytest.raises(UsageError, match="--only names no variant of Fabella to compare with"):
        bench(["tinystories-1m"], replace(options, only=("nanogpt",)))
    with pytest.raises(UsageError, match=r"Unknown baseline 'nanogtp' in --only\. Did you mean"):
        bench(["tinystories-1m"], replace(options, only=("nanogtp",)))


def test_the_memory_of_a_peer_is_measured_in_a_child_process() -> None:
    assert 10**6 < peak_memory("tinystories-1m", "nanogpt", QUICK) < 10**9


def test_nanogpt_is_the_same_network() -> None:
    config = preset("tinystories-1m").model
    ours, theirs = create_baseline("fabella", config, (2, 8), "float32", "cpu").model, NanoGPT(config)
    weights = dict(ours.state_dict())
    for layer in range(config.layers):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blocks.{layer}.attention.{name}.{kind}") for name in ("query", "key", "value")]
            weights[f"blocks.{layer}.query_key_value.{kind}"] = torch.cat(parts)
    for name in [name for name in weights if ".attention." in name or ".feed_forward." in name]:
        weights[name.replace(".attention.", ".").replace(".feed_forward.", ".")] = weights.pop(name)
    theirs.load_state_dict({**weights, "head.weight": weights["embedding.weight"]})
    ids = torch.randint(config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids[:, :-1], ids[:, 1:]), ours.loss(ids[:, :-1], ids[:, 1:]))


def test_litgpt_is_the_same_network() -> None:
    pytest.importorskip("litgpt", reason="a peer, installed by `make bench-peers` only")
    config: Any = preset("storybook-1m").model
    ours = create_baseline("fabella", config, (2, 8), "float32", "cpu").model
    theirs, loss = build_peer(config, "litgpt")
    weights = dict(ours.state_dict())
    for layer in range(config.layers):
        names = [f"blocks.{layer}.attention.{name}.weight" for name in ("query", "key", "value")]
        weights[f"blocks.{layer}.attention.qkv.weight"] = torch.cat([weights.pop(name) for name in names])
    renamed = {
        "blocks.": "transformer.h.", "attention.qkv": "attn.qkv", "attention.output": "attn.proj",
        "attention_norm": "norm_1", "feed_forward_norm": "norm_2", "feed_forward.gate": "mlp.fc_1",
        "feed_forward.up": "mlp.fc_2", "feed_forward.down": "mlp.proj", "embedding": "transformer.wte",
    }  # fmt: skip
    for old, new in renamed.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    weights["transformer.ln_f.weight"] = weights.pop("norm.weight")
    theirs.load_state_dict({**weights, "lm_head.weight": weights["transformer.wte.weight"]})
    ids = torch.randint(config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(ids), ours.loss(ids[:, :-1], ids[:, 1:]))


@pytest.mark.parametrize("name", ["piny-37m", "tinystories-1m", "mingru-17m"])
def test_the_step_in_plain_jax_is_the_same_network(name: str) -> None:
    config = preset(name).model
    values = config.model_dump()
    config = type(config).model_validate(values | {key: size for key, size in SMALL.items() if key in values})
    weights = initial_weights(config.parameters(), 1)
    ids = np.random.default_rng(1).integers(0, 61, (2, 13)).astype(np.int32)
    ours = jax.jit(lambda w: build(config).loss_sum(Params(w), ids[:, :-1], ids[:, 1:]) / 24)(weights)
    assert float(jax.jit(LOSSES[config.family](config))(weights, ids)) == pytest.approx(float(ours), rel=TOLERANCE)


def test_the_jax_engine_is_compared_with_plain_jax_and_pytorch() -> None:
    result = bench(["storybook-1m"], replace(QUICK, engine="jax", rounds=2))
    baselines = result["shapes"]["storybook-1m"]["baselines"]
    names = step_parts_jax.names(preset("storybook-1m").model)
    assert list(baselines) == names == ["fabella", "plain jax", "fabella on torch"]
    assert len({baseline["parameters"] for baseline in baselines.values()}) == 1
    assert set(baselines["fabella"]["seconds"]) == {"data", "step"}
    assert result["settings"]["engine"] == "jax"
