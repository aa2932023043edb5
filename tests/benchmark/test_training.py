"""Tests that training speed is measured in rounds and summarized by medians."""

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest
import torch

from fabella.benchmark import step_parts_torch
from fabella.benchmark import training as benching
from fabella.benchmark.step_parts_torch import PARTS, create_baseline, split_precision
from fabella.benchmark.training import BenchOptions, bench, peak_memory, shape_of, summarize
from fabella.errors import ConfigError, FabellaError
from fabella.models.flops import flops_per_token
from fabella.run_config.files import preset
from tests.planning import fake_worker

QUICK = BenchOptions(rounds=2, device="cpu", memory=False)


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16), "tinystories-1m": (1, 8)})


def test_medians_and_ratios_are_taken_round_by_round() -> None:
    fabella = [{"forward": 1.0, "backward": 1.0}, {"forward": 2.0, "backward": 2.0}, {"forward": 9.0, "backward": 1.0}]
    baseline = [
        {"forward": 2.0, "backward": 1.0},
        {"forward": 3.0, "backward": 3.0},
        {"forward": 9.0, "backward": 11.0},
    ]
    summary = summarize(baseline, fabella, tokens=12)
    assert summary["seconds_per_step"] == 6.0
    assert summary["tokens_per_second"] == 2.0
    assert summary["seconds"] == {"forward": 3.0, "backward": 3.0}
    assert summary["fabella_speedup"] == 1.5  # 3/2, 6/4, 20/10


def test_a_preset_is_measured_part_by_part_against_the_machines_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_parts_torch, "measure_peak_flops", lambda device, dtype: 1e12)
    result = bench(["storybook-1m"], QUICK)["shapes"]["storybook-1m"]
    summary = result["baselines"]["fabella"]
    assert list(result["baselines"]) == ["fabella"]
    assert set(summary["seconds"]) == set(PARTS)
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    assert summary["fabella_speedup"] == 1.0
    flops = flops_per_token(preset("storybook-1m").model, 16) * 32
    assert summary["mfu"] == pytest.approx(flops / summary["seconds_per_step"] / 1e12)


def test_a_step_changes_the_weights() -> None:
    baseline = create_baseline("fabella", preset("storybook-1m").model, (2, 16), "float32", "cpu")
    before = [parameter.detach().clone() for parameter in baseline.model.parameters()]
    baseline.step()
    assert any((old != new).any() for old, new in zip(before, baseline.model.parameters(), strict=True))


def test_both_precisions_are_measured_and_bf16_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_parts_torch, "measure_peak_flops", lambda device, dtype: 1e12)
    result = bench(["storybook-1m"], dataclasses.replace(QUICK, bf16=True))["shapes"]["storybook-1m"]
    assert list(result["baselines"]) == ["fabella bf16", "fabella"]
    assert (result["reference"], result["peak_precision"]) == ("fabella bf16", "bf16")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fabella", ("fabella", "float32")),
        ("litgpt bf16", ("litgpt", "bf16")),
        ("litgpt bf16 compiled", ("litgpt", "bf16")),
        ("litgpt compiled", ("litgpt", "float32")),
    ],
)
def test_the_name_of_a_baseline_says_its_precision(name: str, expected: tuple[str, str]) -> None:
    assert split_precision(name, "float32") == expected


def test_forward_and_backward_run_in_the_context_of_a_training() -> None:
    inside: list[bool] = []
    baseline = create_baseline("fabella bf16", preset("storybook-1m").model, (2, 16), "float32", "cpu")
    assert baseline.precision == torch.bfloat16
    own = baseline.context

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        inside.append(True)
        with own():
            yield
        inside.append(False)

    baseline.context = context
    weight = next(baseline.model.parameters())
    weight.register_hook(lambda gradient: inside.append(gradient is not None))
    baseline.step()
    assert inside == [True, True, False]


def test_memory_is_measured_in_a_child_process() -> None:
    assert 10**6 < peak_memory("storybook-1m", "fabella", QUICK) < 10**9


def test_a_failed_child_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "CHILD_MODULE", fake_worker.__name__)
    monkeypatch.setenv(fake_worker.CODE, "sys.exit('no such kernel')")
    with pytest.raises(FabellaError, match="memory of fabella at storybook-1m: exit code 1, no such"):
        peak_memory("storybook-1m", "fabella", QUICK)


def test_other_presets_have_their_own_shape_and_an_unknown_one_is_refused() -> None:
    assert shape_of("piny-37m") == (16, 512)
    with pytest.raises(ConfigError, match="Did you mean 'piny-37m'"):
        shape_of("piny-37")
