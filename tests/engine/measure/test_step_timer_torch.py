"""What is measured of a training, and that measuring changes nothing."""

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
def test_equal_no_and_infinite_values_have_a_histogram_too(values: list[float], counted: int) -> None:
    found = histogram(torch.tensor(values))
    assert sum(found.counts) == counted
    assert found.low < found.high


def test_weights_are_always_there_gradients_after_a_step(engine: Engine) -> None:
    names = list(engine.config.parameters())
    assert list(engine.histograms()) == [f"weights/{name}" for name in names]
    engine.step(batch(), 0.01)
    found = engine.histograms()
    assert set(found) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    assert all(sum(found[f"gradients/{n}"].counts) == p.size for n, p in engine.config.parameters().items())


def test_measuring_changes_nothing_that_is_learned(engine: Engine) -> None:
    other, watch = engines.create_engine(tiny.run(), device="cpu"), engine.stopwatch()
    for step in range(3):
        watch.start()
        engine.step(batch(step), 0.01)
        watch.stop()
        engine.histograms(), engine.peak_flops(), engine.peak_memory()
        other.step(batch(step), 0.01)
    for name, array in engine.state().weights.items():
        assert np.array_equal(array, other.state().weights[name])


def test_the_stopwatch_gives_each_step_from_start_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([1.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(step_timer_torch.time, "perf_counter", lambda: next(now))
    watch = StepTimer(CPU)
    watch.stop()  # never started
    for _ in range(2):
        watch.start()
        watch.stop()
    assert watch.read() == [0.5, 2.0]
    assert watch.read() == []


def test_however_seldom_it_is_read_a_stopwatch_keeps_no_more_than_a_thousand_steps() -> None:
    watch = StepTimer(CPU)
    for _ in range(3000):
        watch.start()
        watch.stop()
    assert len(watch.read()) == 1000


def test_the_peak_is_measured_once_and_memory_is_more_than_the_interpreter(engine: Engine) -> None:
    assert engine.peak_flops() == engine.peak_flops() > 1e8
    assert engine.peak_memory() > 10_000_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="times are taken from CUDA's own events")
def test_on_a_gpu_the_device_is_timed_not_the_calls() -> None:
    watch = StepTimer(torch.device("cuda"))
    matrix = torch.ones(4096, 4096, device="cuda")
    watch.start()
    for _ in range(100):
        matrix = matrix @ matrix
    watch.stop()
    assert watch.read()[0] > 100 * 2 * 4096**3 / 1e15  # no device is faster than a petaflop in float32
