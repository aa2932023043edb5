"""Tests of the clock of a race and of the number of steps that it allows."""

from types import SimpleNamespace

import pytest

from fabella.evaluation.races import clock as clocks
from fabella.evaluation.races.clock import MARGIN, RaceClock, steps_within
from fabella.evaluation.step_time import StepTime
from fabella.run_config.files import load_config

CONSTANT = load_config("storybook-1m", ("training.gradient_accumulation=[[0, 2]]",))


def test_steps_fill_the_time_after_startup_and_compiling_except_a_margin() -> None:
    steps = steps_within(100.0, CONSTANT, StepTime(first=10.5, later=0.5), startup=1.0)
    assert steps * 0.5 <= (100 - 1 - 10) * (1 - MARGIN) < (steps + 1) * 0.5


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 1.0])
def test_at_least_one_step_is_planned(seconds: float) -> None:
    assert steps_within(seconds, CONSTANT, StepTime(first=2.0, later=2.0), startup=0.0) == 1


def test_larger_batches_later_take_more_time() -> None:
    growing = load_config("storybook-1m", ("training.gradient_accumulation=[[0, 1], [50, 3]]",))
    steps = steps_within(100.0, growing, StepTime(first=0.5, later=0.5), startup=0.0)
    seconds = 0.5 * (50 + 3 * (steps - 50))
    assert 0 <= 100 * (1 - MARGIN) - seconds < 2


def test_the_parts_of_the_clock_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 103.0, 104.0, 200.0])
    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = RaceClock(minutes=1)
    clock.end("prepare")
    assert clock.left == 56.0
    clock.end("train", at=161.0)
    assert clock.parts == {"prepare": 3.0, "train": 58.0}
    assert (clock.seconds, clock.in_time) == (61.0, False)
