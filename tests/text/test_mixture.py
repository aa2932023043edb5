"""Tests that each part of a mixture has its share, whatever the sizes of its documents."""

from hypothesis import given
from hypothesis import strategies as st

from fabella.text.mixture import WeightedRoundRobin, interleave

SIZES = st.lists(st.lists(st.integers(1, 30), max_size=30), min_size=1, max_size=5)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.data())
def test_the_units_of_a_part_differ_from_its_share_by_less_than_the_largest_item(
    weights: list[int], data: st.DataObject
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    balance, used, largest = WeightedRoundRobin(len(weights)), [0] * len(weights), 30
    for _ in range(data.draw(st.integers(1, 200))):
        part = balance.choose(shares)
        size = data.draw(st.integers(1, largest))
        balance.charge(part, size, shares)
        used[part] += size
        for of, share in zip(used, shares, strict=True):
            assert abs(of - share * sum(used)) <= largest * len(weights)


def test_a_part_of_weight_zero_is_not_used_until_its_weight_rises() -> None:
    balance, used = WeightedRoundRobin(2), [0, 0]
    for number in range(200):
        shares = [1.0, 0.0] if number < 100 else [0.5, 0.5]
        part = balance.choose(shares)
        balance.charge(part, 1, shares)
        used[part] += 1
        if number == 99:
            assert used == [100, 0]
    assert used == [150, 50]


@given(SIZES)
def test_every_document_comes_once_and_in_order(sizes: list[list[int]]) -> None:
    parts = [iter([f"{part}:{n}:" + "x" * size for n, size in enumerate(row)]) for part, row in enumerate(sizes)]
    found = list(interleave(parts, [1.0 + part for part in range(len(sizes))], len))
    for part, row in enumerate(sizes):
        assert [int(text.split(":")[1]) for of, text in found if of == part] == list(range(len(row)))
