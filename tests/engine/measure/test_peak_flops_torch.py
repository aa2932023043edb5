"""Tests of the measured peak FLOP/s, the reference of MFU."""

from types import SimpleNamespace

import pytest
import torch

from fabella.engine.measure import peak_flops_torch
from fabella.engine.measure.peak_flops_torch import measure_peak_flops


def test_the_peak_is_the_rate_of_the_fastest_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    # start; three trials of 2, 1 and 4 s; time remains; one trial of 2 s; no time remains
    clock = iter([0.0, 10.0, 12.0, 12.0, 13.0, 13.0, 17.0, 17.0, 18.0, 20.0, 26.0])
    monkeypatch.setattr(peak_flops_torch, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measure_peak_flops("cpu", torch.float32, seconds=25.0) == 2 * 1024**3 / 1.0
    assert next(clock, None) is None


def test_the_peak_is_plausible() -> None:
    assert 1e8 < measure_peak_flops(torch.device("cpu"), torch.float32, seconds=0.0) < 1e15
