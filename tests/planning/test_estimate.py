"""What a training is said to take is what it takes."""

from pathlib import Path
from typing import Any

import pytest

from fabella.models.parameters import count
from fabella.planning import estimate as plan
from fabella.planning.estimate import RunLength, disk_place, forecast, length_of, memory_of, pace_of
from fabella.planning.memory import MemoryBudget
from fabella.planning.probe import ProbeLimits, ProbeResult
from fabella.run_config.files import load_config, preset
from fabella.training.setup.resolve_config import resolve_config
from tests.training import tiny

AMPLE = MemoryBudget(10**11, 10**11, "memory")
GIVEN = ProbeLimits(limit=10**11, on_gpu=False, seconds=120, device="cpu")


def measured(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    monkeypatch.setattr(plan, "try_out", lambda run, size, given, counts: ProbeResult(micro_batch=size, **values))


def test_a_run_that_is_resolved_has_the_length_that_was_told(tmp_path: Path) -> None:
    data = tiny.prepared(tmp_path)
    run = tiny.run("training.length={epochs: 2.5}")
    told, resolved = length_of(run, data), resolve_config(run, data).training.length
    assert told.steps == getattr(resolved, "steps", None)
    assert told.epochs == pytest.approx(2.5, rel=0.1)
    assert told.tokens is not None
    assert told.windows_per_step == ((0, 16), (12, 24), (20, 32))


def test_before_the_text_is_prepared_the_steps_of_epochs_are_not_known() -> None:
    assert length_of(preset("tinystories-8m"), None) == RunLength(None, None, 3.0, ((0, 64),))
    assert length_of(preset("minigpt-100m"), None).tokens == (8750 * 512 + 4375 * 1024 + 7187 * 2048) * 512


def test_of_a_stream_the_epochs_are_not_known(tmp_path: Path) -> None:
    run = tiny.run("data.mode.kind=streaming")
    told = length_of(run, tiny.prepared(tmp_path, run))
    assert (told.steps, told.epochs) == (tiny.STEPS, None)


def test_time_is_that_of_all_micro_batches_and_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, seconds=2.0, seconds_of_update=0.5)
    run = tiny.run()  # 12 steps of 2 micro-batches, 8 of 3, 20 of 4, each of 8 windows of 32 tokens
    pace = pace_of(run, length_of(run, None), GIVEN)
    assert pace.seconds_left == pytest.approx(12 * 4.5 + 8 * 6.5 + 20 * 8.5)
    assert pace.tokens_per_second == pytest.approx((24 + 24 + 80) * 8 * 32 / (pace.seconds_left or 0))


def test_the_memory_of_weights_and_moments_is_exact() -> None:
    run = preset("piny-37m")
    memory = memory_of(run, "cpu").on_device
    weights = 4 * count(run.model.parameters())
    assert (memory["weights"], memory["gradients"]) == (weights, weights)
    assert memory["optimizer"] == pytest.approx(2 * weights, rel=1e-3)


def test_activations_grow_with_the_micro_batch_and_shrink_when_computed_again() -> None:
    def activations(*overrides: str) -> int:
        return memory_of(load_config("storybook-1m", overrides), "cpu").on_device["activations"]

    assert activations("training.micro_batch_size=16") == pytest.approx(
        2 * activations("training.micro_batch_size=8"), rel=0.05
    )
    assert activations("training.gradient_checkpointing=blocks") < 0.3 * activations()


def test_the_estimate_is_near_what_a_real_step_takes() -> None:
    """Half above or below: what kernels take for themselves is not known."""
    run = load_config("storybook-1m", ["training.micro_batch_size=16"])
    told = forecast(run, None, AMPLE, 10**12, GIVEN)
    assert told.pace is not None
    estimate = sum(told.memory.on_device.values()) + told.memory.beside["program"]
    assert 0.5 < told.pace.trial.peak_bytes / estimate < 1.5


def test_disk_is_what_train_asks_for_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def require_space(folder: Any, needed: int) -> None:
        asked.append(needed)

    monkeypatch.setattr(session, "require_space", require_space)
    run = tiny.run("checkpoint.keep_last=4", steps=1)
    data = tiny.prepared(tmp_path)
    session.start_run(run, tmp_path / "run", data)
    told = forecast(run, data, AMPLE, asked[0], None)
    assert told.disk.needed == asked[0]
    assert told.fits_disk
    assert not forecast(run, data, AMPLE, asked[0] - 1, None).fits_disk
    saved = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoints" / "step-00000001").iterdir())
    assert saved < told.disk.checkpoint


def test_what_is_measured_decides_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    run = preset("storybook-1m")
    measured(monkeypatch, seconds=1.0, peak_bytes=5 * 10**9)
    assert not forecast(run, None, MemoryBudget(10**10, 4 * 10**9, "memory"), 10**12, GIVEN).fits_memory
    assert forecast(run, None, MemoryBudget(10**10, 6 * 10**9, "memory"), 10**12, GIVEN).fits_memory
    measured(monkeypatch, reason="killed")
    assert not forecast(run, None, AMPLE, 10**12, GIVEN).fits_memory


def test_on_a_gpu_only_what_lies_there_counts() -> None:
    told = forecast(preset("storybook-1m"), None, MemoryBudget(10**10, 10**10, "memory of the GPU"), 10**12, None)
    assert told.memory_needed == sum(told.memory.on_device.values())


def test_the_disk_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert disk_place(tmp_path / "runs" / "mine") == tmp_path
