"""Choosing an id, by PyTorch and by the compiled step, is what its plain definition says, with the frequencies that
the probabilities promise."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fabella.errors import NumericsError
from fabella.generation.decoder.native import build
from fabella.generation.decoder.native.sampler_torch import NativeSampler
from fabella.generation.sampling import SamplingParams, uniforms
from fabella.generation.sampling_torch import TorchSampler, sample

# Weights are sums of a few float32 exponentials: closer than this to a border, either side of it is right.
BORDER = 1e-4
# One-sided level of the chi-square tests, in standard deviations: about one false alarm in a million runs.
CHI_SQUARE_Z = 4.75


def sample_native(logits: Tensor, sampling: SamplingParams, uniform: Tensor, seen: Tensor | None = None) -> Tensor:
    library = build.step().library
    assert library is not None
    logits = logits.float().contiguous()
    chooser = NativeSampler(library, *logits.shape)
    marked = [None] * len(logits) if seen is None else list(seen.contiguous())
    wishes = [chooser.sampler_state(sampling, own) for own in marked]
    return torch.tensor(chooser.sample(logits, wishes, uniform.tolist()))


@pytest.fixture(scope="module", autouse=True, params=["PyTorch", "compiled"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test looks at both ways of choosing."""
    if request.param == "compiled" and build.step().library is None:
        pytest.skip(build.step().remark)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            patch.setattr(sys.modules[__name__], "sample", sample_native)
        yield


# ---------------------------------------------------------------- the definitions, in plain numpy


def probabilities(
    logits: NDArray[np.float64], sampling: SamplingParams, seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """What ``Sampling`` says, step by step, for one row; the temperature is above 0."""
    p = sampling.repetition_penalty
    penalised = [(x / p if x > 0 else x * p) if s else x for x, s in zip(logits, seen, strict=True)]
    scaled = np.array(penalised) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    kept = weights / weights.sum()
    ordered = np.sort(kept)[::-1]
    if 0 < sampling.top_k < len(kept):
        kept = np.where(kept >= ordered[sampling.top_k - 1], kept, 0.0)
    ordered = np.sort(kept)[::-1] / kept.sum()
    needed = next(count for count in range(1, len(kept) + 1) if ordered[:count].sum() >= min(sampling.top_p, 1 - 1e-12))
    kept = np.where(kept >= ordered[needed - 1] * kept.sum() * (1 - 1e-9), kept, 0.0)
    kept = np.where(kept >= sampling.min_p * kept.max(), kept, 0.0)
    return kept / kept.sum()


def is_borderline(logits: NDArray[np.float64], sampling: SamplingParams, seen: NDArray[np.bool_]) -> bool:
    """Whether top-p or min-p would keep something else if they were a hair lower or higher."""
    hairs = [
        SamplingParams(
            repetition_penalty=sampling.repetition_penalty,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=min(1.0, sampling.top_p * (1 + sign * BORDER)),
            min_p=min(1.0, sampling.min_p * (1 + sign * BORDER)),
        )
        for sign in (-1, 1)
    ]
    low, high = (probabilities(logits, hair, seen) > 0 for hair in hairs)
    return not np.array_equal(low, high)


def chosen(logits: Any, sampling: SamplingParams, uniform: Any, seen: Any = None) -> list[int]:
    rows = torch.as_tensor(np.atleast_2d(np.asarray(logits, dtype=np.float32)))
    numbers = torch.as_tensor(np.asarray(uniform, dtype=np.float32).reshape(-1))
    penalised = None if seen is None else torch.as_tensor(np.atleast_2d(seen)).expand(len(numbers), -1)
    return sample(rows.expand(len(numbers), -1), sampling, numbers, penalised).tolist()


EVEN = (np.arange(512) + 0.5) / 512
PLAIN = {"temperature": 1.0, "top_p": 1.0}


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float64]:
    """Logits of a small vocabulary in quarter steps, so that equal ones are frequent."""
    quarters = draw(st.lists(st.integers(-20, 20), min_size=1, max_size=90))
    return np.array(quarters) / 4.0


@st.composite
def samplings(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.1, 2.0, 100.0])),
        temperature=draw(st.sampled_from([0.1, 0.5, 0.8, 1.0, 1.7, 100.0])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 5, 64, 1000])),
        top_p=draw(st.sampled_from([1.0, 1.0, 1e-6, 0.3, 0.5, 0.9, 0.95, 0.999])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.5, 1.0])),
    )


@given(logits=rows(), sampling=samplings(), data=st.data())
def test_a_choice_is_the_inverse_of_the_defined_distribution(
    logits: NDArray[np.float64], sampling: SamplingParams, data: st.DataObject
) -> None:
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    assume(not is_borderline(logits, sampling, seen))
    expected = probabilities(logits, sampling, seen)
    sums = expected.cumsum()
    for uniform, choice in zip(EVEN, chosen(logits, sampling, EVEN, seen), strict=True):
        assert expected[choice] > 0, "what was cut is never chosen"
        assert sums[choice] >= uniform - BORDER
        assert sums[choice] - expected[choice] <= uniform + BORDER


@given(logits=rows(), penalty=st.sampled_from([1.0, 0.5, 2.0]), data=st.data())
def test_greedy_takes_the_first_of_the_most_likely(
    logits: NDArray[np.float64], penalty: float, data: st.DataObject
) -> None:
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    penalised = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    greedy = SamplingParams(temperature=0, repetition_penalty=penalty, top_k=3, top_p=0.1)
    assert chosen(logits, greedy, [0.99], seen) == [int(penalised.argmax())]


def reachable(logits: list[float], **settings: float) -> set[int]:
    return set(chosen(logits, SamplingParams(**{**PLAIN, **settings}), EVEN))  # type: ignore[arg-type]


def test_top_k_keeps_the_k_most_likely_and_what_equals_the_last_of_them() -> None:
    assert reachable([1, 4, 2, 3], top_k=2) == {1, 3}
    assert reachable([1, 4, 3, 3], top_k=2) == {1, 2, 3}
    assert reachable([1, 4, 2, 3], top_k=0) == reachable([1, 4, 2, 3], top_k=9) == {0, 1, 2, 3}


def test_top_p_keeps_the_fewest_that_hold_the_share() -> None:
    logits = np.log([0.05, 0.5, 0.15, 0.3]).tolist()
    assert reachable(logits, top_p=0.49) == {1}
    assert reachable(logits, top_p=0.51) == {1, 3}
    assert reachable(logits, top_p=0.81) == {1, 2, 3}
    assert reachable(logits, top_p=0.96) == {0, 1, 2, 3}
    # Of the two that top-k leaves, 0.5 / 0.8 = 62.5 % lie with the first.
    assert reachable(logits, top_k=2, top_p=0.6) == {1}


def test_min_p_is_relative_to_the_most_likely() -> None:
    logits = np.log([0.04, 0.5, 0.16, 0.3]).tolist()
    assert reachable(logits, min_p=0.55) == {1, 3}
    assert reachable(logits, min_p=0.3) == {1, 2, 3}
    assert reachable(logits, min_p=1.0) == {1}


@pytest.mark.parametrize("width", [65, 1025, 5000])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.9999])
def test_the_nucleus_is_the_same_however_many_candidates_it_takes(width: int, share: float) -> None:
    """Flat and peaked rows side by side: the search among a few candidates must not cut the flat one short."""
    random = np.random.default_rng(0)
    logits = np.stack([random.normal(size=width) * spread for spread in (0.01, 1.0, 9.0)]).astype(np.float32)
    sampling = SamplingParams(temperature=1.0, top_p=share)
    numbers = np.linspace(0, 0.9999, 100, dtype=np.float32)
    beside = sample(torch.from_numpy(np.tile(logits, (100, 1))), sampling, torch.from_numpy(np.repeat(numbers, 3)))
    for row, choices in zip(logits, beside.reshape(100, 3).T.numpy(), strict=True):
        expected = probabilities(row.astype(np.float64), sampling, np.zeros(width, dtype=bool))
        assert (expected.cumsum()[choices] >= numbers - BORDER).all()
        assert (expected.cumsum()[choices] - expected[choices] <= numbers + BORDER).all()


# ---------------------------------------------------------------- frequencies


def chi_square(counts: NDArray[np.float64], expected: NDArray[np.float64]) -> tuple[float, float]:
    """Pearson's statistic, and the quantile that it exceeds by chance once in a million (Wilson & Hilferty 1931)."""
    degrees = len(counts) - 1
    share = 2 / (9 * degrees)
    quantile = degrees * (1 - share + CHI_SQUARE_Z * math.sqrt(share)) ** 3
    return float(((counts - expected) ** 2 / expected).sum()), quantile


DRAWS = 40_000


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 12}, {"top_p": 0.8}, {"min_p": 0.05}]
)
def test_frequencies_are_the_probabilities(settings: dict[str, float]) -> None:
    logits = np.random.default_rng(1).normal(size=30) * 1.2
    sampling = SamplingParams(**{**PLAIN, **settings, "seed": 5})  # type: ignore[arg-type]
    expected = probabilities(logits, sampling, np.zeros(30, dtype=bool))
    counts = np.bincount(chosen(logits, sampling, uniforms(5, 0, DRAWS)), minlength=30)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic, quantile = chi_square(counts[possible], expected[possible] * DRAWS)
    assert statistic < quantile


def test_the_chi_square_test_notices_a_slightly_wrong_temperature() -> None:
    logits = np.random.default_rng(1).normal(size=30) * 1.2
    right, wrong = (SamplingParams(**PLAIN, seed=5), SamplingParams(temperature=1.1, top_p=1.0, seed=5))
    expected = probabilities(logits, right, np.zeros(30, dtype=bool)) * DRAWS
    counts = np.bincount(chosen(logits, wrong, uniforms(5, 0, DRAWS)), minlength=30)
    statistic, quantile = chi_square(counts, expected)
    assert statistic > quantile


# ---------------------------------------------------------------- logits that are none

NAN, INF = float("nan"), float("inf")
SETTINGS = {
    "greedy": SamplingParams(temperature=0),
    "plain": SamplingParams(**PLAIN, seed=3),
    "cut": SamplingParams(top_k=3, top_p=0.9, min_p=0.01, repetition_penalty=1.3, seed=3),
    "cold": SamplingParams(temperature=5e-324, top_p=1.0),
}
BROKEN = {"all -inf": [-INF] * 4, "NaN": [0.0, NAN, 1.0, 2.0], "all NaN": [NAN] * 4, "+inf": [0.0, INF, 1.0, 2.0]}
ODD = {"ties": [1.0, 1.0, 1.0, 1.0], "vocabulary 1": [0.0], "one possible": [-INF, -INF, 2.0, -INF]}


# 4 kinds of broken logits × 3 settings, and 8 odd ones, in both ways: 40 cases.
@pytest.mark.fault("G6", cases=24)
@pytest.mark.parametrize("how", ["greedy", "plain", "cut"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_logits_are_an_error_that_names_the_row(kind: str, how: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], BROKEN[kind]])
    seen = torch.ones_like(logits, dtype=torch.bool)
    with pytest.raises(NumericsError) as error:
        sample(logits, SETTINGS[how], torch.tensor([0.5, 0.5]), seen)
    largest = {"all -inf": "-inf", "+inf": "inf"}.get(kind, "nan")
    assert str(error.value) == (
        f"Cannot sample from the logits of row 1: their maximum is {largest}. "
        "The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP)."
    )


@pytest.mark.fault("G6", cases=16)
@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("ties", "greedy", {0}),
        ("ties", "plain", {0, 1, 2, 3}),
        ("ties", "cut", {0, 1, 2, 3}),
        ("ties", "cold", {0, 1, 2, 3}),
        ("vocabulary 1", "greedy", {0}),
        ("vocabulary 1", "cut", {0}),
        ("one possible", "greedy", {2}),
        ("one possible", "cut", {2}),
    ],
)
def test_odd_logits_have_a_defined_choice_that_a_seed_repeats(kind: str, how: str, expected: set[int]) -> None:
    numbers = uniforms(3, 0, 200)
    first = chosen(ODD[kind], SETTINGS[how], numbers)
    assert set(first) == expected
    assert chosen(ODD[kind], SETTINGS[how], uniforms(3, 0, 200)) == first


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_unit_interval_choose_what_is_possible(uniform: float) -> None:
    """The ids at both ends are impossible, 40,000 equal weights make the sum inexact, and 1 is one step too far."""
    logits = [-INF] * 10 + [0.1] * 40_000 + [-INF] * 10
    assert 10 <= chosen(logits, SamplingParams(**PLAIN), [uniform])[0] < 40_010


def test_logits_may_be_of_any_precision() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert sample(logits.to(dtype), SamplingParams(seed=1), torch.tensor([0.5])).tolist() == [1]


def test_logits_are_not_changed() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    sample(logits, SETTINGS["cut"], torch.tensor([0.1, 0.9]), torch.ones(2, 9, dtype=torch.bool))
    assert torch.equal(logits, before)


def test_texts_with_different_wishes_are_chosen_for_side_by_side() -> None:
    """Each as alone, whoever stands beside it: in one call of either chooser."""
    random = np.random.default_rng(2)
    logits = torch.from_numpy(random.normal(size=(64, 700)).astype(np.float32) * 2)
    settings = [
        SamplingParams(temperature=(0.0, 0.7, 1.3)[row % 3], top_k=(0, 5)[row % 2], top_p=(0.5, 0.9, 1.0)[row % 5 % 3],
                 repetition_penalty=(1.0, 1.5)[row % 4 // 2])
        for row in range(64)
    ]  # fmt: skip
    marked = [torch.from_numpy(random.random(700) < 0.2) if own.repetition_penalty != 1.0 else None for own in settings]
    numbers = random.random(64).astype(np.float32).tolist()
    alone: list[int] = []
    for row, (own, seen) in enumerate(zip(settings, marked, strict=True)):
        number = torch.tensor(numbers[row : row + 1])
        alone.append(int(sample(logits[row : row + 1], own, number, None if seen is None else seen[None])))
    library = build.step().library
    for chooser in [TorchSampler(700), *([NativeSampler(library, 64, 700)] if library else [])]:
        wishes: list[Any] = [chooser.sampler_state(own, seen) for own, seen in zip(settings, marked, strict=True)]
        assert chooser.sample(logits, wishes, numbers) == alone


@pytest.mark.skipif(build.step().library is None, reason=build.step().remark)
def test_several_threads_choose_what_one_does_among_the_first_ids_of_wider_rows() -> None:
    """The last hundred ids are the likeliest and never chosen; fewer rows with other wishes come after more."""
    random = np.random.default_rng(3)
    logits = torch.from_numpy(random.normal(size=(64, 20_100)).astype(np.float32))
    logits[:, 20_000:] += 50
    numbers = random.random(64).astype(np.float32).tolist()
    library = build.step().library
    assert library is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        several = NativeSampler(library, 64, 20_000)
    finally:
        torch.set_num_threads(before)
    for rows, sampling in (
        (64, SamplingParams(top_p=0.9)),
        (60, SamplingParams(temperature=1.2, top_p=1.0, min_p=0.01)),
    ):
        alone = NativeSampler(library, 1, 20_000)
        expected = [
            alone.sample(logits[row : row + 1], [alone.sampler_state(sampling, None)], numbers[row : row + 1])[0]
            for row in range(rows)
        ]
        assert several.sample(logits[:rows], [several.sampler_state(sampling, None)] * rows, numbers[:rows]) == expected
        assert max(expected) < 20_000
