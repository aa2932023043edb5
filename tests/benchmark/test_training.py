"""Speed is measured in turns, and told by its medians."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from fabella.benchmark import step_parts_torch
from fabella.benchmark import training as benching
from fabella.benchmark.peers.models_torch import build_peer
from fabella.benchmark.peers.nanogpt_torch import NanoGPT
from fabella.benchmark.step_parts_torch import PARTS, Baseline
from fabella.benchmark.training import BenchOptions, bench, peak_memory, shape_of, summary
from fabella.errors import ConfigError, FabellaError, UsageError
from fabella.models.flops import flops_per_token
from fabella.run_config.files import preset

QUICK = BenchOptions(turns=2, device="cpu", alone=True, memory=False)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16), "tinystories-1m": (1, 8)})


def test_medians_and_ratios_are_taken_turn_by_turn() -> None:
    ours = [{"forward": 1.0, "backward": 1.0}, {"forward": 2.0, "backward": 2.0}, {"forward": 9.0, "backward": 1.0}]
    theirs = [{"forward": 2.0, "backward": 1.0}, {"forward": 3.0, "backward": 3.0}, {"forward": 9.0, "backward": 11.0}]
    told = summary(theirs, ours, tokens=12)
    assert told["seconds_per_step"] == 6.0
    assert told["tokens_per_second"] == 2.0
    assert told["seconds"] == {"forward": 3.0, "backward": 3.0}
    assert told["fabella_by_this"] == 1.5  # 3/2, 6/4, 20/10


def test_a_shape_is_measured_part_by_part_against_the_machines_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_parts_torch, "measured_peak", lambda device, dtype: 1e12)
    result = bench(["storybook-1m"], QUICK)["shapes"]["storybook-1m"]
    told = result["contestants"]["fabella"]
    assert list(result["contestants"]) == ["fabella"]
    assert set(told["seconds"]) == set(PARTS)
    assert all(seconds > 0 for seconds in told["seconds"].values())
    assert told["fabella_by_this"] == 1.0
    flops = flops_per_token(preset("storybook-1m").model, 16) * 32
    assert told["utilisation"] == pytest.approx(flops / told["seconds_per_step"] / 1e12)


def test_a_peer_of_the_same_architecture_takes_part_where_it_is_installed() -> None:
    pytest.importorskip("transformers")
    beside = BenchOptions(turns=1, device="cpu", memory=False)
    told = bench(["tinystories-1m"], beside)["shapes"]["tinystories-1m"]["contestants"]
    assert list(told) == ["fabella", "transformers", "nanogpt"]
    assert len({each["parameters"] for each in told.values()}) == 1


def test_only_those_asked_for_take_part_and_one_of_them_is_fabella() -> None:
    asked = BenchOptions(turns=1, device="cpu", memory=False, only=("nanogpt", "fabella"))
    result = bench(["tinystories-1m"], asked)["shapes"]["tinystories-1m"]
    assert (list(result["contestants"]), result["compared_with"]) == (["fabella", "nanogpt"], "fabella")
    with pytest.raises(UsageError, match="--only names no Fabella to compare with"):
        bench(["tinystories-1m"], replace(asked, only=("nanogpt",)))
    with pytest.raises(UsageError, match=r"--only nanogtp does not take part here\. Did you mean"):
        bench(["tinystories-1m"], replace(asked, only=("nanogtp",)))


def test_nanogpt_is_the_same_model_written_otherwise() -> None:
    config = preset("tinystories-1m").model
    ours, theirs = Baseline("fabella", config, (2, 8), "float32", "cpu").model, NanoGPT(config)
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


def test_litgpt_is_the_same_model_written_otherwise() -> None:
    pytest.importorskip("litgpt", reason="a peer, installed by `make bench-peers` only")
    config: Any = preset("storybook-1m").model
    ours, (theirs, loss) = Baseline("fabella", config, (2, 8), "float32", "cpu").model, build_peer(config, "litgpt")
    weights = dict(ours.state_dict())
    for layer in range(config.layers):
        names = [f"blocks.{layer}.attention.{name}.weight" for name in ("query", "key", "value")]
        weights[f"blocks.{layer}.attention.qkv.weight"] = torch.cat([weights.pop(name) for name in names])
    spelled = {
        "blocks.": "transformer.h.", "attention.qkv": "attn.qkv", "attention.output": "attn.proj",
        "attention_norm": "norm_1", "feed_forward_norm": "norm_2", "feed_forward.gate": "mlp.fc_1",
        "feed_forward.up": "mlp.fc_2", "feed_forward.down": "mlp.proj", "embedding": "transformer.wte",
    }  # fmt: skip
    for old, new in spelled.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    weights["transformer.ln_f.weight"] = weights.pop("norm.weight")
    theirs.load_state_dict({**weights, "lm_head.weight": weights["transformer.wte.weight"]})
    ids = torch.randint(config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(ids), ours.loss(ids[:, :-1], ids[:, 1:]))


def test_steps_are_taken_in_earnest() -> None:
    contestant = Baseline("fabella", preset("storybook-1m").model, (2, 16), "float32", "cpu")
    before = [parameter.detach().clone() for parameter in contestant.model.parameters()]
    contestant.step()
    assert any((old != new).any() for old, new in zip(before, contestant.model.parameters(), strict=True))


def test_memory_is_that_of_a_process_of_its_own() -> None:
    assert 10**6 < peak_memory("storybook-1m", "fabella", QUICK) < 10**9


def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "CHILD", [sys.executable, "-c", "import sys; sys.exit('no such kernel')"])
    with pytest.raises(FabellaError, match="The memory of fabella at storybook-1m cannot be measured: code 1, no such"):
        peak_memory("storybook-1m", "fabella", QUICK)


def test_other_presets_have_their_own_shape_and_a_misspelt_one_is_refused() -> None:
    assert shape_of("piny-37m") == (16, 512)
    with pytest.raises(ConfigError, match="Did you mean 'piny-37m'"):
        shape_of("piny-37")
