"""Tests how a CPU's matrix products are chosen: by measured speed and error, the same way on every later run."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fabella.config.training import AutoPrecision, BFloat16, Float16, Float32, PrecisionConfig
from fabella.engine import matmul_torch
from fabella.engine.device_torch import cpu_precision
from fabella.engine.engine import StepResult
from fabella.engine.matmul_torch import (
    MAX_OUTPUTS,
    OVERRIDE,
    MatmulChoice,
    MatmulSpeed,
    ProcessorUsage,
    choose_matmul,
    fastest,
    is_available,
    main_shapes,
    matmul_context,
    measure,
)
from fabella.errors import ConfigError, TrainingInterrupted
from fabella.models.parameters import Normal, ParameterSpec
from fabella.runs.run_dir import RunDir
from fabella.training.loop import Progress
from fabella.training.run import resume, start_run
from tests.training import tiny

EXACT, ROUNDED = 1e-6, 4e-3
WEIGHT = ParameterSpec(shape=(32, 16), init=Normal(0.02), decay=True)


def measured(default: float, onednn: float, error: float, bf16: float | None = None) -> Any:
    speeds = {"default": MatmulSpeed(default, EXACT), "onednn": MatmulSpeed(onednn, error)}
    return speeds | ({"bf16": MatmulSpeed(bf16, ROUNDED)} if bf16 else {})


@pytest.mark.parametrize(
    ("found", "float32", "any_precision"),
    [
        (measured(1.0, 0.5, EXACT, 0.25), "onednn", "bf16"),
        (measured(1.0, 0.5, ROUNDED, 0.1), "default", "bf16"),  # oneDNN rounds, as with AMX
        (measured(1.0, 0.95, EXACT), "default", "default"),  # AVX2: no gain is worth other bits
        (measured(1.0, 0.5, EXACT, 0.48), "onednn", "onednn"),
        (measured(1.0, 2.0, EXACT, 90.0), "default", "default"),
    ],
)
def test_the_fastest_way_that_is_exact_enough_is_chosen(found: Any, float32: str, any_precision: str) -> None:
    chosen = fastest(found)
    assert (chosen.float32, chosen.fastest) == (float32, any_precision)
    assert chosen.fastest_speedup == pytest.approx(1.0 / found[any_precision].seconds)


def test_the_measured_error_is_that_of_float32_or_of_rounded_inputs() -> None:
    found = measure([(64, 96)], ProcessorUsage())
    assert found["default"].error < 1e-5
    assert all(0 < speed.seconds < 60 and speed.error < 2e-2 for speed in found.values())
    assert found["onednn"].error < 1e-5 or found["onednn"].error > 1e-4
    assert ("bf16" in found) == is_available("bf16")


def test_the_shapes_with_most_products_are_measured() -> None:
    table = {f"blocks.{i}.up.weight": WEIGHT for i in range(3)}
    table["head.weight"] = ParameterSpec(shape=(50_000, 16), init=Normal(0.02), decay=True)
    table["norm.weight"] = ParameterSpec(shape=(16,), init=Normal(0.02), decay=False)
    assert main_shapes(table) == [(16, MAX_OUTPUTS), (16, 32)]


def test_the_share_of_the_processor_is_one_on_an_idle_machine_and_half_next_to_another_program() -> None:
    threads = torch.get_num_threads()
    assert ProcessorUsage(seconds=2.0, processor_seconds=2.0 * threads).share == 1.0
    assert ProcessorUsage(seconds=2.0, processor_seconds=1.0 * threads).share == 0.5
    usage = ProcessorUsage()
    measure([(64, 96)], usage)
    assert usage.seconds > 0
    assert usage.processor_seconds >= 0


@pytest.mark.parametrize(("share", "cached"), [(1.0, True), (0.8, True), (0.5, False)])
def test_what_a_busy_machine_measured_is_not_cached(
    share: float, cached: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(shapes: Any, usage: ProcessorUsage) -> Any:
        usage.seconds, usage.processor_seconds = 1.0, share * torch.get_num_threads()
        return measured(1.0, 0.25, EXACT)

    monkeypatch.setattr(matmul_torch, "measure", busy)
    assert choose_matmul({"weight": WEIGHT}).float32 == "onednn"
    assert any(cache.rglob("*.json")) == cached


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache directory, in a process that measures."""
    monkeypatch.delenv(OVERRIDE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(matmul_torch, "measure", lambda shapes, usage: measured(1.0, 0.25, EXACT))
    return tmp_path / "cache" / "fabella" / "matmul"


def test_a_choice_is_measured_once_per_shapes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_matmul({"weight": WEIGHT})
    assert (chosen.float32, chosen.float32_speedup) == ("onednn", 4.0)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(matmul_torch, "measure", lambda shapes, usage: measured(1.0, 2.0, EXACT))
    assert choose_matmul({"weight": WEIGHT}) == chosen
    other = ParameterSpec(shape=(48, 16), init=Normal(0.02), decay=True)
    assert choose_matmul({"weight": other}).float32 == "default"


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"float32": "default"}', '{"other": 1}'])
def test_a_damaged_cache_is_measured_again(cache: Path, damage: str) -> None:
    chosen = choose_matmul({"weight": WEIGHT})
    (file,) = cache.iterdir()
    file.write_text(damage)
    assert choose_matmul({"weight": WEIGHT}) == chosen
    assert file.read_text() != damage


def test_without_a_writable_cache_every_run_measures(cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the directory would be")
    assert choose_matmul({"weight": WEIGHT}).float32 == "onednn"


def test_an_unknown_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "onednm")
    with pytest.raises(ConfigError, match="Did you mean 'onednn'"):
        choose_matmul({"weight": WEIGHT})


def test_the_setting_of_pytorch_is_restored_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    with contextlib.suppress(ZeroDivisionError), matmul_context("onednn"):
        during = torch.get_float32_matmul_precision()
        raise ZeroDivisionError
    assert (during, torch.get_float32_matmul_precision()) == ("medium", before)


@pytest.mark.parametrize(
    ("requested", "choice", "compute", "way"),
    [
        (AutoPrecision(), MatmulChoice("onednn", "bf16"), torch.bfloat16, "bf16"),
        (AutoPrecision(), MatmulChoice("onednn", "onednn"), torch.float32, "onednn"),
        (BFloat16(), MatmulChoice("default", "bf16"), torch.bfloat16, "bf16"),
        (BFloat16(), MatmulChoice("default", "default"), torch.float32, "default"),
        (Float32(), MatmulChoice("onednn", "bf16"), torch.float32, "onednn"),
        (Float16(), MatmulChoice("onednn", "bf16"), torch.bfloat16, "bf16"),
        (Float16(), MatmulChoice("onednn", "onednn"), torch.float32, "onednn"),
    ],
    ids=str,
)
def test_a_cpu_trains_in_bf16_where_that_is_requested_and_fastest(
    requested: PrecisionConfig, choice: MatmulChoice, compute: torch.dtype, way: str
) -> None:
    precision = cpu_precision(requested, choice)
    assert (precision.compute, precision.matmul, precision.scaled) == (compute, way, False)


# ---------------------------------------------------------------- runs

needs_bf16 = pytest.mark.skipif(not is_available("bf16"), reason="needs a CPU with bf16 instructions")


def _stop_after_5(progress: Progress, result: StepResult) -> None:
    if progress.step == 5:
        os.kill(os.getpid(), signal.SIGINT)


@needs_bf16
@pytest.mark.parametrize("way", ["onednn", "bf16"])
def test_a_resumed_run_computes_as_it_started_and_ends_with_the_same_bits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the other side of the interruption, the machine would choose another way."""
    config = tiny.run(steps=8)
    data = tiny.prepared(tmp_path, config)
    monkeypatch.setenv(OVERRIDE, way)
    start_run(config, tmp_path / "whole", data, device="cpu")
    with pytest.raises(TrainingInterrupted):
        start_run(config, tmp_path / "half", data, device="cpu", callbacks=[_stop_after_5])
    assert RunDir.open(tmp_path / "half").recorded_compute()["matmul"] == way
    monkeypatch.setenv(OVERRIDE, "default")
    start_run(config, tmp_path / "default", data, device="cpu")
    resume(tmp_path / "half", device="cpu")
    bits = {name: (tmp_path / name / "checkpoints" / "step-00000008" / "model.safetensors") for name in
            ("whole", "half", "default")}  # fmt: skip
    assert bits["half"].read_bytes() == bits["whole"].read_bytes() != bits["default"].read_bytes()


@needs_bf16
def test_bf16_learns_what_float32_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.run("model.dropout=0.0", steps=30)
    data, losses = tiny.prepared(tmp_path, config), {}
    for way in ("default", "bf16"):
        monkeypatch.setenv(OVERRIDE, way)
        result = start_run(config, tmp_path / way, data, device="cpu")
        assert result.score is not None
        losses[way] = result.score.loss
    assert losses["bf16"] == pytest.approx(losses["default"], rel=0.02)
