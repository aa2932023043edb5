"""Tests that each source of a mixture has its share, in an order fixed by the seed."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.text.mixture import interleave, uniform

# Four standard deviations of a share among 10,000 draws are at most 0.02.
SHARE_TOLERANCE = 0.02


def parts(*sizes: int) -> list[Iterator[str]]:
    return [iter([f"{part}:{number}" for number in range(size)]) for part, size in enumerate(sizes)]


def drawn(sizes: list[int], weights: list[float], *, seed: int = 1, until_all: bool = False) -> list[str]:
    return [text for _, text in interleave(parts(*sizes), weights, seed=seed, until_all=until_all)]


def test_each_part_has_its_share_of_the_documents() -> None:
    counts = Counter(text[0] for text in drawn([10_000] * 3, [305, 38, 7])[:10_000])
    for part, weight in zip("012", (305, 38, 7), strict=True):
        assert counts[part] / 10_000 == pytest.approx(weight / 350, abs=SHARE_TOLERANCE)


def test_the_order_is_fixed_by_the_seed() -> None:
    assert drawn([50, 50], [1, 1], seed=7) == drawn([50, 50], [1, 1], seed=7)
    assert drawn([50, 50], [1, 1], seed=7) != drawn([50, 50], [1, 1], seed=8)


def test_weights_are_relative() -> None:
    assert drawn([50, 50], [1, 3]) == drawn([50, 50], [0.25, 0.75])


def test_interleave_ends_with_the_first_part_that_ends() -> None:
    found = drawn([5, 1000], [1, 1])
    assert Counter(text[0] for text in found)["0"] == 5


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 2**64))
def test_until_all_uses_every_document_once_and_in_order(sizes: list[int], seed: int) -> None:
    found = drawn(sizes, [1.0 + part for part in range(len(sizes))], seed=seed, until_all=True)
    assert sorted(found) == sorted(f"{part}:{number}" for part, size in enumerate(sizes) for number in range(size))
    for part in range(len(sizes)):
        numbers = [int(text.split(":")[1]) for text in found if text.startswith(f"{part}:")]
        assert numbers == sorted(numbers)


def test_uniform_is_in_the_unit_interval_and_spread() -> None:
    numbers = [uniform(3, n) for n in range(10_000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 10_000 == pytest.approx(0.5, abs=SHARE_TOLERANCE)
    # SplitMix64's first output for seed 0, from its reference implementation.
    assert uniform(0, 0) == 0xE220A8397B1DCDAF / 2**64
