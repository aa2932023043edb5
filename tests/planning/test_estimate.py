"""Tests that the estimate of a run matches the run."""

from pathlib import Path
from typing import Any

import pytest

from fabella.models.parameters import count
from fabella.planning import estimate as planning
from fabella.planning.estimate import RunLength, estimate, estimate_memory, existing_parent, measure_speed, run_length
from fabella.planning.memory import MemoryBudget
from fabella.planning.probe import ProbeLimits, ProbeResult
from fabella.run_config.files import load_config, preset
from fabella.training.run import start_run
from fabella.training.setup import resolve_config as resolution
from fabella.training.setup.resolve_config import resolve_config
from tests.training import tiny

AMPLE = MemoryBudget(10**11, 10**11, "memory")
LIMITS = ProbeLimits(limit=10**11, on_gpu=False, seconds=120, device="cpu")


def measured(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    monkeypatch.setattr(
        planning, "probe_batch_size", lambda run, size, limits, counts: ProbeResult(micro_batch_size=size, **values)
    )


def test_a_resolved_run_has_the_estimated_length(tmp_path: Path) -> None:
    data = tiny.prepared(tmp_path)
    run = tiny.run("training.length={epochs: 2.5}")
    result, resolved = run_length(run, data), resolve_config(run, data).training.length
    assert result.steps == getattr(resolved, "max_steps", None)
    assert result.epochs == pytest.approx(2.5, rel=0.1)
    assert result.tokens is not None
    assert result.sequences_per_step == ((0, 16), (12, 24), (20, 32))


def test_before_preparation_the_steps_of_epochs_are_unknown() -> None:
    assert run_length(preset("tinystories-8m"), None) == RunLength(None, None, 3.0, ((0, 64),))
    assert run_length(preset("minigpt-100m"), None).tokens == (8750 * 512 + 4375 * 1024 + 7187 * 2048) * 512


def test_the_epochs_of_a_stream_are_unknown(tmp_path: Path) -> None:
    run = tiny.run("data.mode.kind=streaming")
    result = run_length(run, tiny.prepared(tmp_path, run))
    assert (result.steps, result.epochs) == (tiny.STEPS, None)


def test_the_time_includes_all_micro_batches_and_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, seconds=2.0, update_seconds=0.5)
    run = tiny.run()  # 12 steps of 2 micro-batches, 8 of 3, 20 of 4, each of 8 sequences of 32 tokens
    speed = measure_speed(run, run_length(run, None), LIMITS)
    assert speed.seconds_left == pytest.approx(12 * 4.5 + 8 * 6.5 + 20 * 8.5)
    assert speed.tokens_per_second == pytest.approx((24 + 24 + 80) * 8 * 32 / (speed.seconds_left or 0))


def test_the_memory_of_weights_and_moments_is_exact() -> None:
    run = preset("piny-37m")
    memory = estimate_memory(run, "cpu").on_device
    weights = 4 * count(run.model.parameters())
    assert (memory["weights"], memory["gradients"]) == (weights, weights)
    assert memory["optimizer"] == pytest.approx(2 * weights, rel=1e-3)


def test_an_average_adds_four_bytes_for_each_trained_parameter() -> None:
    settings = ["training.freeze=[embedding.*]"]
    plain, averaged = (
        load_config("storybook-1m", [*settings, *more]) for more in ((), ("optimizer.average.kind=ema",))
    )
    size = 4 * count(averaged.trainable_parameters)
    before, after = (estimate(run, None, AMPLE, 10**12, None) for run in (plain, averaged))
    assert after.memory.on_device == {**before.memory.on_device, "average": size}
    assert after.memory.host["checkpoint snapshot"] == before.memory.host["checkpoint snapshot"] + size
    assert after.disk.checkpoint == before.disk.checkpoint + size


def test_activations_grow_with_the_micro_batch_and_shrink_with_gradient_checkpointing() -> None:
    def activations(*overrides: str) -> int:
        return estimate_memory(load_config("storybook-1m", overrides), "cpu").on_device["activations"]

    assert activations("training.micro_batch_size=16") == pytest.approx(
        2 * activations("training.micro_batch_size=8"), rel=0.05
    )
    assert activations("training.gradient_checkpointing=blocks") < 0.3 * activations()


def test_the_memory_estimate_is_near_the_peak_of_a_real_step() -> None:
    """Within a factor of two: the workspace of kernels is unknown."""
    run = load_config("storybook-1m", ["training.micro_batch_size=16"])
    result = estimate(run, None, AMPLE, 10**12, LIMITS)
    assert result.speed is not None
    estimated_bytes = sum(result.memory.on_device.values()) + result.memory.host["program"]
    assert 0.5 < result.speed.trial.peak_bytes / estimated_bytes < 1.5


def test_the_disk_estimate_equals_the_check_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[int] = []

    def require_space(run: Any, needed: int) -> None:
        requested.append(needed)

    monkeypatch.setattr(resolution, "require_space", require_space)
    run = tiny.run("checkpoint.keep_last=4", steps=1)
    data = tiny.prepared(tmp_path)
    start_run(run, tmp_path / "run", data)
    result = estimate(run, data, AMPLE, requested[0], None)
    assert result.disk.needed == requested[0]
    assert result.fits_disk
    assert not estimate(run, data, AMPLE, requested[0] - 1, None).fits_disk
    saved = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints" / "step-00000001").iterdir())
    assert saved < result.disk.checkpoint


def test_a_measurement_decides_whether_the_run_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    run = preset("storybook-1m")
    measured(monkeypatch, seconds=1.0, peak_bytes=5 * 10**9)
    assert not estimate(run, None, MemoryBudget(10**10, 4 * 10**9, "memory"), 10**12, LIMITS).fits_memory
    assert estimate(run, None, MemoryBudget(10**10, 6 * 10**9, "memory"), 10**12, LIMITS).fits_memory
    measured(monkeypatch, reason="killed")
    assert not estimate(run, None, AMPLE, 10**12, LIMITS).fits_memory


def test_on_a_gpu_only_its_memory_counts() -> None:
    result = estimate(preset("storybook-1m"), None, MemoryBudget(10**10, 10**10, "memory of the GPU"), 10**12, None)
    assert result.memory_needed == sum(result.memory.on_device.values())


def test_the_disk_is_that_of_the_nearest_existing_directory(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "runs" / "mine") == tmp_path
