"""Tests that decoding speed is measured in rounds and compared with the memory bandwidth."""

import pytest

from fabella.benchmark import decoders_torch
from fabella.benchmark.decode_task import DecodeTask
from fabella.benchmark.decoders_torch import available_baselines, read_bandwidth
from fabella.benchmark.decoding import DecodeBenchOptions, bench, bytes_per_step
from fabella.models.parameters import count
from fabella.run_config.files import preset


def test_a_preset_is_measured_with_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_torch, "read_bandwidth", lambda device: 1e9)
    reported: list[str] = []
    options = DecodeBenchOptions(rounds=2, batches=(1, 3), max_tokens=5, device="cpu")
    result = bench(["storybook-1m"], options, lambda name, shape: reported.append(name))
    assert reported == ["storybook-1m (batch of 1)", "storybook-1m (batch of 3)"]
    assert result["settings"]["max_tokens"] == 5
    assert result["settings"]["rounds"] == 2
    shape = result["shapes"]["storybook-1m"]["3"]
    fabella = shape["baselines"]["fabella"]
    assert fabella["fabella_speedup"] == 1.0
    assert fabella["bandwidth_share"] == pytest.approx(shape["weight_bytes"] * fabella["tokens_per_second"] / 3 / 1e9)


def test_the_jax_engine_is_measured_next_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_torch, "read_bandwidth", lambda device: 1e9)
    options = DecodeBenchOptions(rounds=1, batches=(2,), max_tokens=3, device="cpu", engine="jax")
    baselines = bench(["storybook-1m"], options)["shapes"]["storybook-1m"]["2"]["baselines"]
    assert list(baselines)[:2] == ["fabella", "fabella on jax"]
    assert baselines["fabella on jax"]["tokens_per_second"] > 0


def test_a_step_reads_all_weights_except_embedding_rows() -> None:
    tied = preset("storybook-1m").model
    assert bytes_per_step(tied) == 4 * count(tied.parameters())
    mingru = preset("mingru-17m").model
    assert bytes_per_step(mingru) == 4 * (15_750_144 + 256 * 512)


def test_fabella_is_measured_with_every_supported_weight_type() -> None:
    baselines = available_baselines(DecodeTask(preset("storybook-1m").model, 2, 3, 4))
    assert baselines[0].name == "fabella"
    assert {baseline.name for baseline in baselines[1:]} <= {
        "fabella float16",
        "fabella bfloat16",
        "fabella int8",
    }
    assert all(baseline.decode() > 0 for baseline in baselines)


def test_the_memory_bandwidth_is_plausible() -> None:
    assert 1e8 < read_bandwidth("cpu", seconds=0.01) < 1e13
