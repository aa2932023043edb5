"""Tests that perplexities and probabilities of any size are printed in few characters and never as 0."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.storage import format_exp


@pytest.mark.parametrize(
    ("exponent", "decimals", "text"),
    [
        (math.log(4.4817), 2, "4.48"),
        (math.log(1234.5), 2, "1,234.50"),
        (421.6, 2, "1.25e+183"),
        (861_919.0, 2, "4.63e+374326"),
        (math.log(0.25), 6, "0.250000"),
        (-20.5, 6, "1.25e-09"),
        (-900.0, 6, "1.36e-391"),
        (math.log(9.999e7), 2, "1.00e+08"),
        (math.inf, 2, "inf"),
        (math.nan, 2, "nan"),
    ],
)
def test_a_power_of_e_is_plain_or_in_scientific_notation(exponent: float, decimals: int, text: str) -> None:
    assert format_exp(exponent, decimals) == text


@given(st.floats(-1e6, 1e6))
def test_a_power_of_e_has_at_most_14_characters_and_is_never_0(exponent: float) -> None:
    text = format_exp(exponent, 6)
    assert len(text) <= 14
    assert any(digit in text.partition("e")[0] for digit in "123456789")
