"""How fast a training goes, by clocks and an engine that a test can set."""

from typing import Any

import pytest

from fabella.models.flops import flops_per_token
from fabella.training.callbacks import throughput as module
from fabella.training.callbacks.throughput import THROUGHPUT_KEYS, ThroughputMeter
from fabella.training.loop import Progress
from tests.training import tiny


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Timed:
    """An engine that measures what it is told to."""

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
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_reading_has_percentiles_utilization_waiting_and_memory_since_the_last_one(clock: Clock) -> None:
    engine = Timed()
    pace = ThroughputMeter(engine, 32, seconds=50.0)  # pyright: ignore[reportArgumentType]
    assert set(pace.read(0)) == {"seconds", "data_wait_fraction", "peak_flops", "peak_memory_bytes"}
    engine.seconds = [0.1] * 98 + [0.2, 0.4]
    pace.waiting_seconds = 0.5
    clock.now += 10.0
    read = pace.read(1000)
    assert tuple(read) == THROUGHPUT_KEYS
    assert read["seconds"] == 60.0
    assert read["tokens_per_second"] == 100.0
    assert (read["step_seconds_p1"], read["step_seconds_p50"]) == (0.1, 0.1)
    assert 0.2 <= read["step_seconds_p99"] <= 0.4
    assert read["data_wait_fraction"] == 0.05
    assert read["flops_utilization"] == round(100 * flops_per_token(engine.config, 32) / 1e9, 4)
    assert (read["peak_flops"], read["peak_memory_bytes"]) == (10**9, 12345)
    clock.now += 10.0
    assert pace.read(3000)["tokens_per_second"] == 200.0


def test_waiting_is_counted_and_a_step_starts_when_its_batch_is_requested(clock: Clock) -> None:
    engine = Timed()
    pace = ThroughputMeter(engine, 32, seconds=0.0)  # pyright: ignore[reportArgumentType]

    def batches() -> Any:
        for _ in range(3):
            clock.now += 2.0  # the feed is slow
            yield "batch"

    for batch in pace.timed(batches()):
        assert batch == "batch"
        clock.now += 5.0  # the step
        pace(Progress(), None)  # pyright: ignore[reportArgumentType]
    assert pace.waiting_seconds == 6.0
    assert engine.marks == ["start", "stop"] * 3 + ["start"]
