"""Tests that perplexities and probabilities of any size are printed in few characters and never as 0."""

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.storage import format_exp, format_number, format_share
from tests.source_tree import FILES, TREES, location


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


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234.50"), (0.004, "0.00"), (1e300, "1.00e+300"), (-3e6, "-3.00e+06")]
)
def test_a_number_is_plain_below_a_million(value: float, text: str) -> None:
    assert format_number(value, 2) == text


def test_no_perplexity_is_printed_with_all_of_its_digits() -> None:
    """The perplexity of a diverged training has hundreds of them."""
    fixed = [
        location(file, node)
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        if "perplexity" in ast.unparse(node.value) and ast.unparse(node.format_spec).rstrip("'\"").endswith("f")
    ]
    assert fixed == []


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100.0 %"), (0.9999999, ">99.9 %"), (0.5, "50.0 %"), (0.001, "0.1 %"), (1e-5, "0.001 %")]
)
def test_only_all_of_a_text_is_a_hundred_percent(share: float, shown: str) -> None:
    assert format_share(share) == shown
