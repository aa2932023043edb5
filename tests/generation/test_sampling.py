"""Tests of sampling parameters and of the random numbers of a sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import UsageError
from fabella.generation.sampling import SamplingParams, uniforms

PINNED = [0.4585343599319458, 0.3035680055618286, 0.7294625043869019, 0.8487087488174438]
SEEDS = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        (
            "temperature",
            -0.1,
            "temperature = -0.1 is out of range: it must be at least 0 and at most 100. 0 is greedy; 0.8 is usual.",
        ),
        (
            "top_p",
            0.0,
            "top_p = 0.0 is out of range: it must be more than 0 and at most 1. 1 keeps all tokens; 0.95 is usual.",
        ),
        ("top_k", 2.5, "top_k = 2.5 is not an integer. 0 keeps all tokens; 40 is usual."),
        ("min_p", "much", "min_p = 'much' is not a number. 0 keeps all tokens; 0.05 is usual."),
        (
            "repetition_penalty",
            0.0,
            "repetition_penalty = 0.0 is out of range: it must be at least 0.01 and at most 100. "
            "1 disables it; 1.1 is usual.",
        ),
        (
            "frequency_penalty",
            2.5,
            "frequency_penalty = 2.5 is out of range: it must be at least -2 and at most 2. "
            "0 disables it; 0.5 is usual.",
        ),
        ("logit_bias", ((5, 101.0),), "logit_bias of token id 5 is 101.0. Use a number from -100 to 100."),
        ("logit_bias", ((-1, 1.0),), "logit_bias has the token id -1. A token id is an integer from 0 up."),
        ("seed", True, "seed = True is not an integer. Use any non-negative integer."),
    ],
)
def test_an_invalid_parameter_is_named_with_its_range_and_a_usual_value(setting: str, value: object, text: str) -> None:
    with pytest.raises(UsageError) as error:
        SamplingParams(**{setting: value})  # type: ignore[arg-type]
    assert str(error.value) == text


@pytest.mark.parametrize("bias", [(0, float("nan")), (0, True), (1.5, 1.0), (True, 1.0), ("5", 1.0), (0, -100.5)])
def test_a_logit_bias_is_a_number_up_to_100_for_an_integer(bias: object) -> None:
    with pytest.raises(UsageError, match=r"^logit_bias"):
        SamplingParams(logit_bias=(bias,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("repetition_penalty", 101),
        ("frequency_penalty", float("nan")),
        ("presence_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_value_out_of_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^{setting} = .*out of range"):
        SamplingParams(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 100, "top_k": 2**31 - 1, "top_p": 1, "min_p": 1, "repetition_penalty": 100},
        {"repetition_penalty": 0.01, "temperature": 5e-324, "top_p": 5e-324, "seed": 2**63 - 1},
    ],
)
def test_the_bounds_are_allowed(settings: dict[str, float]) -> None:
    SamplingParams(**settings)  # type: ignore[arg-type]


@given(seed=SEEDS, row=SEEDS, count=st.integers(0, 50), more=st.integers(0, 50))
def test_a_random_number_depends_only_on_seed_row_and_position(seed: int, row: int, count: int, more: int) -> None:
    longer = uniforms(seed, row, count + more)
    assert np.array_equal(uniforms(seed, row, count), longer[:count])
    assert np.array_equal(uniforms(seed, row, count + more), longer)
    assert ((longer >= 0) & (longer < 1)).all()


def test_every_seed_and_row_has_other_numbers() -> None:
    # Includes (1, 0) and (0, 1), and seeds that differ only in their highest bit.
    keys = [(seed, row) for seed in (0, 1, 2, 2**62) for row in (0, 1, 2, 2**62)]
    assert len({uniforms(seed, row, 8).tobytes() for seed, row in keys}) == len(keys)


def test_the_random_numbers_are_pinned() -> None:
    """A seed gives the same completion in every version and with both engines."""
    assert uniforms(1, 0, 4).tolist() == PINNED


def test_a_negative_row_is_refused() -> None:
    with pytest.raises(UsageError, match="row = -1 is not a valid sequence number"):
        uniforms(0, -1, 1)
