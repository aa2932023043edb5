"""Tests that the sequences of a mixture have their shares, in an order that is a function of seed and position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import MixtureSource, StorybookSource, WeightedSource
from fabella.data.mixture import BLOCK, MixtureSampler, draws_of, weight_phases
from fabella.data.sequences import PartSize

COUNTS = (100, 50, 3)
PHASES = [(1000, np.array([0.7, 0.3, 0.0])), (1300, np.array([0.1, 0.1, 0.8])), (None, np.array([0.5, 0.4, 0.1]))]


def sampler(seed: int = 7) -> MixtureSampler:
    return MixtureSampler(COUNTS, PHASES, seed)


def parts_of(sequences: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
    borders = np.cumsum(COUNTS)[:-1]
    return np.bincount(np.searchsorted(borders, sequences, side="right"), minlength=3).tolist()


ALL = sampler().sequences(0, 5000)


def test_each_phase_has_its_shares_up_to_its_last_sequence() -> None:
    start = 0
    for end, draws in PHASES:
        stop = end or len(ALL)
        blocks = -(-(stop - start) // BLOCK)
        for used, draw in zip(parts_of(ALL[start:stop]), draws.tolist(), strict=True):
            assert abs(used - draw * (stop - start)) <= blocks
            assert draw > 0 or used == 0
        start = stop


@given(st.integers(0, 4000), st.integers(1, 600))
def test_a_position_has_the_same_sequence_wherever_reading_starts(start: int, count: int) -> None:
    assert (sampler().sequences(start, start + count) == ALL[start : start + count]).all()


@given(st.integers(0, 4999))
def test_the_used_sequences_of_each_part_are_counted(stop: int) -> None:
    assert sampler().used(stop).tolist() == parts_of(ALL[:stop])


def test_each_part_has_epochs_of_its_own_in_another_order() -> None:
    first = ALL[np.flatnonzero(np.searchsorted(np.cumsum(COUNTS), ALL, side="right") == 0)]
    epochs = [first[start : start + COUNTS[0]].tolist() for start in range(0, len(first) - COUNTS[0], COUNTS[0])]
    assert len(epochs) > 10
    assert all(sorted(epoch) == list(range(COUNTS[0])) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_an_epoch_offset_counts_the_epochs_of_each_part() -> None:
    numbered = MixtureSampler(COUNTS, PHASES, 7, epoch_offset=1000).sequences(0, 5000)
    assert (numbered % 1000 == ALL).all()
    of_last = np.flatnonzero(sum(COUNTS[:2]) <= ALL)
    assert (numbered[of_last] // 1000 == np.arange(len(of_last)) // COUNTS[2]).all()


def test_another_seed_gives_another_order() -> None:
    assert (sampler(8).sequences(0, 500) != ALL[:500]).mean() > 0.9


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6), st.integers(0, 2**40))
def test_a_rare_part_is_not_forgotten_and_no_part_gets_too_much(weights: list[float], seed: int) -> None:
    draws = np.array(weights) / sum(weights)
    positions = 40 * BLOCK
    used = MixtureSampler([10] * len(draws), [(None, draws)], seed).used(positions)
    # Six standard deviations of 40 roundings of one block each.
    assert (np.abs(used - draws * positions) <= 6 * 0.5 * 40**0.5 + 1).all()


def mixture(*weights: float, by: str = "tokens", schedule: tuple[dict[str, object], ...] = ()) -> MixtureSource:
    parts = [{"weight": weight, "source": {"kind": "storybook", "stories": 5}} for weight in weights]
    return MixtureSource.model_validate({"parts": parts, "by": by, "schedule": list(schedule)})


def test_phases_have_the_shares_of_nested_parts() -> None:
    inner = mixture(1, 3)
    outer = MixtureSource.model_validate(
        {
            "parts": [
                WeightedSource(weight=1, source=StorybookSource()).model_dump(),
                WeightedSource(weight=1, source=inner).model_dump(),
            ],
            "schedule": [{"until": "500 sequences", "weights": [3, 1]}],
        }
    )
    first, last = weight_phases(outer)
    assert (first.end, last.end) == (500, None)
    assert first.shares == pytest.approx((0.75, 0.0625, 0.1875))
    assert last.shares == pytest.approx((0.5, 0.125, 0.375))


def test_weights_are_those_of_tokens_or_of_documents() -> None:
    """Part 0 has few long documents, part 1 many short ones; sequences of part 1 have half as many targets."""
    sizes = [PartSize(100, 100_000, 10, 100.0), PartSize(400, 20_000, 1000, 50.0)]
    assert draws_of((0.5, 0.5), "tokens", sizes) == pytest.approx([1 / 3, 2 / 3])
    # Equal numbers of documents: 10,000 tokens of part 0 for 20 of part 1.
    assert draws_of((0.5, 0.5), "documents", sizes) == pytest.approx([100 / 100.4, 0.4 / 100.4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": [{"until": "80%", "weights": [1]}]}, "schedule has 1 weights in a phase for 2 parts"),
        ({"schedule": [{"until": "80 percent", "weights": [1, 1]}]}, "is not a step, nor like 80%"),
        ({"schedule": [{"until": 0, "weights": [1, 1]}]}, "is not a step"),
        ({"schedule": [{"until": 5, "weights": [0, 0]}]}, "one of them above 0"),
        ({"schedule": [{"until": 5, "weights": [2, -1]}]}, "need to be at least 0"),
        ({"by": "documents", "parts": [{"weight": 1, "source": mixture(1, 1).model_dump()}]}, "needs by = documents"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureSource.model_validate({**mixture(1, 1).model_dump(), **changes})
