"""Tests that absurd sizes are refused with a helpful error before anything is allocated (fault matrix, E6)."""

import math
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fabella.errors import ConfigError
from fabella.models.field_types import MAX_PARAMETERS, require_even, require_max_parameters, require_multiple
from fabella.models.parameters import count
from fabella.models.registry import family_module, family_names, parse_model_config

ABSURD = [
    *(0, -1, 10**9, 2**31, 2**31 - 1, 2**63, -(2**63), 10**100, 7, 1),
    *(math.nan, math.inf, -math.inf, 0.5, 1e308, -1e-320),
    *("", "12", "ten", "\0", "m" * 10_000, None, True, [], {}, [1, 2], {"dim": 4}),
]
MAX_MEGABYTES = 200


@st.composite
def absurd_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Generate the tiny config of a family with up to four absurd fields."""
    config = family_module(draw(st.sampled_from(family_names()))).Config.tiny()
    values: dict[str, Any] = config.model_dump()
    for name in draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=4, unique=True)):
        values[name] = draw(st.sampled_from(ABSURD) | st.integers() | st.floats() | st.text(max_size=9))
    return values


@pytest.mark.fault("E6", 1000)
def test_an_absurd_config_is_an_error_or_small_and_allocates_nothing() -> None:
    memory = list[int]()

    @settings(max_examples=1000)
    @given(values=absurd_configs())
    def check_config(values: dict[str, Any]) -> None:
        memory.append(psutil.Process().memory_info().rss)
        try:
            config = parse_model_config(values)
        except (ValidationError, ConfigError):
            return
        assert count(config.parameters()) <= MAX_PARAMETERS
        assert len(config.parameters()) < 10_000

    check_config()
    assert len(memory) >= 1000
    assert (memory[-1] - memory[0]) / 1e6 < MAX_MEGABYTES


@pytest.mark.fault("E6", 8)
@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize(
    "change",
    [
        {"layers": 10**9},
        {"vocab_size": 2**31},
        {"dim": 2**40},
        {"ffn_dim": 2**31},
        {"context_length": 2**31},
        {"dim": 0},
    ],
)
def test_absurd_configs_of_the_fault_matrix(family: str, change: dict[str, int]) -> None:
    values = family_module(family).Config.tiny().model_dump() | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        parse_model_config(values)


def test_the_tiny_config_of_each_family_is_small() -> None:
    assert all(count(family_module(name).Config.tiny().parameters()) < 50_000 for name in family_names())


@pytest.mark.parametrize(
    ("value", "divisor", "nearest"), [(768, 10, 8), (684, 11, 12), (7, 3, 1), (7, 5, 7), (16384, 500, 512)]
)
def test_the_error_suggests_the_nearest_divisor(value: int, divisor: int, nearest: int) -> None:
    with pytest.raises(
        ValueError, match=f"dim = {value} is not a multiple of heads = {divisor}; try heads = {nearest}$"
    ):
        require_multiple("dim", value, "heads", divisor)


def test_multiples_pass() -> None:
    for divisor in (1, 2, 3, 12):
        require_multiple("dim", 12, "heads", divisor)


@pytest.mark.parametrize("value", [0, 1, 3, 2.5])
def test_odd_numbers_are_errors(value: float) -> None:
    with pytest.raises(ValueError, match=f"pairs = {value:g} is not an even number; because"):
        require_even("pairs", value, "because")


def test_models_above_the_maximum_size_are_errors() -> None:
    values = family_module("gpt2").Config.tiny().model_dump()
    with pytest.raises(ValidationError, match="parameters, more than 10,000,000,000; try a smaller dim"):
        parse_model_config(values | {"vocab_size": 2**24, "dim": 1200})
    require_max_parameters(parse_model_config(values | {"vocab_size": 2**20, "dim": 1200}).parameters())
