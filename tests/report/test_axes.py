"""Tests that ticks are round, few and within the axis, and that numbers are short and correct."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.report.axes import bounds, log_ticks, number, numbers, second_ticks, ticks
from fabella.storage import format_duration

LENGTH = st.floats(1e-3, 1e12)
ROUNDING = 1e-6


@given(low=st.floats(-1e3, 1e6), length=LENGTH)
def test_ticks_are_within_the_axis_and_few(low: float, length: float) -> None:
    made = ticks(low, low + length)
    assert 1 <= len(made) <= 8 or length < abs(low) * 1e-9
    assert all(low - length * ROUNDING <= tick <= low + length * (1 + ROUNDING) for tick in made)


@given(length=LENGTH)
def test_time_ticks_are_within_the_axis_and_few(length: float) -> None:
    made = second_ticks(0, length)
    assert 1 <= len(made) <= 8
    assert all(0 <= tick <= length * (1 + ROUNDING) for tick in made)


@given(low=st.floats(1e-9, 1e6), factor=st.floats(1.01, 1e12))
def test_logarithmic_ticks_are_within_the_axis_and_few(low: float, factor: float) -> None:
    made = log_ticks(low, low * factor)
    assert 1 <= len(made) <= 7
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in made)


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 760) == [0, 200, 400, 600]
    assert ticks(0, 3, whole=True) == [0, 1, 2, 3]
    assert ticks(0, 0.5, whole=True) == [0]
    assert second_ticks(0, 109) == [0, 30, 60, 90]
    assert log_ticks(0.2, 9) == [0.2, 0.5, 1, 2, 5]


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 0.0004, 1.234, 999.6, 1150000, 2.5e15)] == [
        "0",
        "0.0004",
        "1.23",
        "1k",
        "1.15M",
        "2.5P",
    ]
    assert number(0.00001234) == "1.2e-05"
    assert number(1e32) == "1e+32"
    assert [format_duration(v) for v in (42, 750, 11100, 187200)] == ["0:42", "12:30", "3:05:00", "2 d 4 h"]


@given(low=st.floats(0, 1e9), length=st.floats(1e-2, 1e12))
def test_different_ticks_of_an_axis_have_different_texts(low: float, length: float) -> None:
    made = ticks(low, low + length)
    assert len(set(numbers(made))) == len(set(made))
    assert numbers([345.2e6, 345.4e6, 346e6]) == ["345.2M", "345.4M", "346M"]


def test_bounds_ignore_non_finite_values_and_are_never_equal() -> None:
    assert bounds([1.0, math.nan, 3.0, math.inf]) == (1.0, 3.0)
    low, high = bounds([2.0, 2.0])
    assert low < 2.0 < high
    assert bounds([math.nan]) == (0.0, 1.0)
    assert bounds([0.0]) == pytest.approx((0.0, 0.0), abs=1e-8)
    assert bounds([0.0])[0] < bounds([0.0])[1]
