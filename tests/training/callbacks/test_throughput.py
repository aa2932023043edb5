"""Tests of the throughput meter with a fake clock and a fake engine."""

from typing import Any

import pytest

from fabella.models.flops import flops_per_token
from fabella.training.callbacks import throughput as module
from fabella.training.callbacks.throughput import THROUGHPUT_KEYS, ThroughputMeter
from fabella.training.loop import Progress
from tests.training import tiny


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class FakeEngine:
    """An engine whose measurements are set by the test."""

    def __init__(self) -> None:
        self.config = tiny.run().model
        self.seconds: list[float] = []
        self.marks: list[str] = []

    def stopwatch(self) -> Any:
        return self

    def start(self) -> None:
        self.marks.append("start")

    def stop(self) -> None:
        self.marks.append("stop")

    def read(self) -> list[float]:
        return self.seconds

    def peak_flops(self) -> float:
        return 1e9

    def peak_memory(self) -> int:
        return 12345


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_a_row_has_percentiles_utilization_data_wait_and_memory_since_the_last_one(clock: FakeClock) -> None:
    engine = FakeEngine()
    meter = ThroughputMeter(engine, 32, seconds=50.0)  # pyright: ignore[reportArgumentType]
    assert set(meter.read(0)) == {"seconds", "data_wait_fraction", "peak_flops", "peak_memory_bytes"}
    engine.seconds = [0.1] * 98 + [0.2, 0.4]
    meter.waiting_seconds = 0.5
    clock.now += 10.0
    row = meter.read(1000)
    assert tuple(row) == THROUGHPUT_KEYS
    assert row["seconds"] == 60.0
    assert row["tokens_per_second"] == 100.0
    assert (row["step_seconds_p1"], row["step_seconds_p50"]) == (0.1, 0.1)
    assert 0.2 <= row["step_seconds_p99"] <= 0.4
    assert row["data_wait_fraction"] == 0.05
    assert row["flops_utilization"] == round(100 * flops_per_token(engine.config, 32) / 1e9, 4)
    assert (row["peak_flops"], row["peak_memory_bytes"]) == (10**9, 12345)
    clock.now += 10.0
    assert meter.read(3000)["tokens_per_second"] == 200.0


def test_waiting_is_counted_and_a_step_starts_when_its_batch_is_requested(clock: FakeClock) -> None:
    engine = FakeEngine()
    meter = ThroughputMeter(engine, 32, seconds=0.0)  # pyright: ignore[reportArgumentType]

    def batches() -> Any:
        for _ in range(3):
            clock.now += 2.0  # waiting for data
            yield "batch"

    for batch in meter.timed(batches()):
        assert batch == "batch"
        clock.now += 5.0  # a training step
        meter(Progress(), None)  # pyright: ignore[reportArgumentType]
    assert meter.waiting_seconds == 6.0
    assert engine.marks == ["start", "stop"] * 3 + ["start"]
