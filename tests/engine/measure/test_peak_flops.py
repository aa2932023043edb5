"""Tests of the measured peak FLOP/s, the reference of MFU."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fabella.engine.measure import peak_flops
from fabella.engine.measure.peak_flops import MIN_TRIALS, SIZE_ELSEWHERE, SIZE_ON_CPU, SMALL_SIZE, measure_peak_flops


class Machine:
    """A machine with a clock: products take the time that its speed gives, the first ones of a size longer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, flops: float) -> None:
        self.flops, self.now = flops, 0.0
        self.sizes: list[int] = []
        monkeypatch.setattr(peak_flops, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def product_of(self, size: int) -> Callable[[], None]:
        def multiply() -> None:
            self.now += 2 * size**3 / self.flops * (1 if size in self.sizes else 5)
            self.sizes.append(size)

        return multiply


def test_a_fast_cpu_is_measured_with_large_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, flops=1e11)
    assert measure_peak_flops(machine.product_of, on_cpu=True) == pytest.approx(1e11)
    assert machine.sizes[:2] == [SMALL_SIZE] * 2
    assert set(machine.sizes[2:]) == {SIZE_ON_CPU}
    assert machine.now < 0.5


def test_a_slow_cpu_is_measured_in_a_fraction_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, flops=5e8)  # float16 without instructions for it
    assert measure_peak_flops(machine.product_of, on_cpu=True) == pytest.approx(5e8)
    assert set(machine.sizes) == {SMALL_SIZE}
    assert machine.now < 1.0


def test_a_gpu_is_measured_with_its_size_at_least_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, flops=1e12)
    assert measure_peak_flops(machine.product_of, on_cpu=False, seconds=0.0) == pytest.approx(1e12)
    assert machine.sizes == [SIZE_ELSEWHERE] * (1 + MIN_TRIALS)


def test_the_fastest_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 12.0, 13.0, 13.0, 17.0, 17.0, 18.0, 20.0, 26.0])
    monkeypatch.setattr(peak_flops, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    # start; three trials of 2, 1 and 4 s; time remains; one trial of 2 s; no time remains
    assert measure_peak_flops(lambda _: lambda: None, on_cpu=False, seconds=25.0) == 2 * SIZE_ELSEWHERE**3 / 1.0
    assert next(clock, None) is None
