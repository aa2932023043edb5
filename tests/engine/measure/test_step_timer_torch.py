"""Tests of histograms, step times and peaks, and that measuring does not change the training."""

import numpy as np
import pytest
import torch

from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.engine.engine import Engine, Histogram
from fabella.engine.measure import step_timer_torch
from fabella.engine.measure.step_timer_torch import StepTimer, histogram
from tests.training import tiny

CPU = torch.device("cpu")


@pytest.fixture
def engine() -> Engine:
    return engines.create_engine(tiny.run(), device="cpu")


def batch(seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(0, 256, (8, 32)).astype(np.int32)
    return Batch(ids, ids)


def test_a_histogram_counts_every_value() -> None:
    values = torch.arange(128.0)
    assert histogram(values) == Histogram(0.0, 127.0, (2,) * 64)


@pytest.mark.parametrize(
    ("values", "counted"),
    [([3.0, 3.0], 2), ([], 0), ([float("nan"), 1.0, 2.0], 2), ([float("inf"), -float("inf")], 0), ([0.0], 1)],
)
def test_equal_empty_and_non_finite_values_have_a_histogram(values: list[float], counted: int) -> None:
    histograms = histogram(torch.tensor(values))
    assert sum(histograms.counts) == counted
    assert histograms.low < histograms.high


def test_histograms_have_weights_always_and_gradients_after_a_step(engine: Engine) -> None:
    names = list(engine.config.parameters())
    assert list(engine.histograms()) == [f"weights/{name}" for name in names]
    engine.step(batch(), 0.01)
    histograms = engine.histograms()
    assert set(histograms) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    assert all(sum(histograms[f"gradients/{n}"].counts) == p.size for n, p in engine.config.parameters().items())


def test_measuring_does_not_change_the_weights(engine: Engine) -> None:
    other, timer = engines.create_engine(tiny.run(), device="cpu"), engine.stopwatch()
    for step in range(3):
        timer.start()
        engine.step(batch(step), 0.01)
        timer.stop()
        engine.histograms(), engine.peak_flops(), engine.peak_memory()
        other.step(batch(step), 0.01)
    for name, array in engine.state().weights.items():
        assert np.array_equal(array, other.state().weights[name])


def test_the_step_timer_returns_the_seconds_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([1.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(step_timer_torch.time, "perf_counter", lambda: next(now))
    timer = StepTimer(CPU)
    timer.stop()  # never started
    for _ in range(2):
        timer.start()
        timer.stop()
    assert timer.read() == [0.5, 2.0]
    assert timer.read() == []


def test_the_step_timer_keeps_at_most_a_thousand_steps() -> None:
    timer = StepTimer(CPU)
    for _ in range(3000):
        timer.start()
        timer.stop()
    assert len(timer.read()) == 1000


def test_peak_flops_are_cached_and_peak_memory_is_plausible(engine: Engine) -> None:
    assert engine.peak_flops() == engine.peak_flops() > 1e8
    assert engine.peak_memory() > 10_000_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA events")
def test_on_a_gpu_the_kernels_are_timed_not_the_calls() -> None:
    timer = StepTimer(torch.device("cuda"))
    matrix = torch.ones(4096, 4096, device="cuda")
    timer.start()
    for _ in range(100):
        matrix = matrix @ matrix
    timer.stop()
    assert timer.read()[0] > 100 * 2 * 4096**3 / 1e15  # no device is faster than a petaflop in float32
