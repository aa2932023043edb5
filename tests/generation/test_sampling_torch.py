"""Tests that PyTorch and the native sampler follow the definition in NumPy, with the right frequencies."""

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

# Weights are sums of a few float32 exponentials: within this distance of a threshold, both results are right.
TOLERANCE = 1e-4
# One-sided level of the chi-square tests, in standard deviations: about one false alarm in a million runs.
CHI_SQUARE_Z = 4.75


def sample_native(
    logits: Tensor, sampling: SamplingParams, uniform: Tensor, seen: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    library = build.library().library
    assert library is not None
    logits = logits.float().contiguous()
    sampler = NativeSampler(library, *logits.shape)
    masks = [None] * len(logits) if seen is None else list(seen.contiguous())
    numbers = [None] * len(logits) if added is None else list(added.float().contiguous())
    states = [sampler.sampler_state(sampling, *row) for row in zip(masks, numbers, strict=True)]
    return torch.tensor(sampler.sample(logits, states, uniform.tolist()))


@pytest.fixture(scope="module", autouse=True, params=["PyTorch", "native"])
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test with both samplers."""
    if request.param == "native" and build.library().library is None:
        pytest.skip(build.library().warning)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "native":
            patch.setattr(sys.modules[__name__], "sample", sample_native)
        yield


# ---------------------------------------------------------------- definition in NumPy


def probabilities(
    logits: NDArray[np.float64], sampling: SamplingParams, seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the probabilities of one row after all filters of ``SamplingParams``, for a temperature above 0."""
    p = sampling.repetition_penalty
    penalized = [(x / p if x > 0 else x * p) if s else x for x, s in zip(logits, seen, strict=True)]
    scaled = np.array(penalized) / sampling.temperature
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
    """Return whether top-p or min-p would keep other tokens if they were slightly lower or higher."""
    variants = [
        SamplingParams(
            repetition_penalty=sampling.repetition_penalty,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=min(1.0, sampling.top_p * (1 + sign * TOLERANCE)),
            min_p=min(1.0, sampling.min_p * (1 + sign * TOLERANCE)),
        )
        for sign in (-1, 1)
    ]
    low, high = (probabilities(logits, variant, seen) > 0 for variant in variants)
    return not np.array_equal(low, high)


def sampled(logits: Any, sampling: SamplingParams, uniform: Any, seen: Any = None) -> list[int]:
    rows = torch.as_tensor(np.atleast_2d(np.asarray(logits, dtype=np.float32)))
    numbers = torch.as_tensor(np.asarray(uniform, dtype=np.float32).reshape(-1))
    penalized = None if seen is None else torch.as_tensor(np.atleast_2d(seen)).expand(len(numbers), -1)
    return sample(rows.expand(len(numbers), -1), sampling, numbers, penalized).tolist()


EVEN = (np.arange(512) + 0.5) / 512
PLAIN = {"temperature": 1.0, "top_p": 1.0}


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float64]:
    """Draw logits of a small vocabulary in steps of 1/4, so that equal ones are frequent."""
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
def test_sampling_inverts_the_cdf_of_the_defined_distribution(
    logits: NDArray[np.float64], sampling: SamplingParams, data: st.DataObject
) -> None:
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    assume(not is_borderline(logits, sampling, seen))
    expected = probabilities(logits, sampling, seen)
    sums = expected.cumsum()
    for uniform, token in zip(EVEN, sampled(logits, sampling, EVEN, seen), strict=True):
        assert expected[token] > 0, "a dropped token is never sampled"
        assert sums[token] >= uniform - TOLERANCE
        assert sums[token] - expected[token] <= uniform + TOLERANCE


@given(logits=rows(), penalty=st.sampled_from([1.0, 0.5, 2.0]), data=st.data())
def test_greedy_takes_the_lowest_id_of_the_most_likely(
    logits: NDArray[np.float64], penalty: float, data: st.DataObject
) -> None:
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    penalized = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    greedy = SamplingParams(temperature=0, repetition_penalty=penalty, top_k=3, top_p=0.1)
    assert sampled(logits, greedy, [0.99], seen) == [int(penalized.argmax())]


def test_added_numbers_are_added_after_the_repetition_penalty() -> None:
    logits, seen = torch.tensor([[2.0, 1.0, -1.0], [2.0, 1.0, -1.0]]), torch.tensor([[True, False, True]] * 2)
    added = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.5]])  # penalized by 4: 0.5, 1, -4
    greedy = SamplingParams(temperature=0, repetition_penalty=4.0)
    assert sample(logits, greedy, torch.tensor([0.5, 0.5]), seen, added).tolist() == [1, 1]
    assert sample(logits, greedy, torch.tensor([0.5, 0.5]), seen, added * 2).tolist() == [1, 2]


def reachable(logits: list[float], **settings: float) -> set[int]:
    return set(sampled(logits, SamplingParams(**{**PLAIN, **settings}), EVEN))  # type: ignore[arg-type]


def test_top_k_keeps_the_k_most_likely_and_those_equal_to_the_last() -> None:
    assert reachable([1, 4, 2, 3], top_k=2) == {1, 3}
    assert reachable([1, 4, 3, 3], top_k=2) == {1, 2, 3}
    assert reachable([1, 4, 2, 3], top_k=0) == reachable([1, 4, 2, 3], top_k=9) == {0, 1, 2, 3}


def test_top_p_keeps_the_fewest_tokens_that_reach_the_share() -> None:
    logits = np.log([0.05, 0.5, 0.15, 0.3]).tolist()
    assert reachable(logits, top_p=0.49) == {1}
    assert reachable(logits, top_p=0.51) == {1, 3}
    assert reachable(logits, top_p=0.81) == {1, 2, 3}
    assert reachable(logits, top_p=0.96) == {0, 1, 2, 3}
    # Of the two tokens that top-k keeps, the first has 0.5 / 0.8 = 62.5 %.
    assert reachable(logits, top_k=2, top_p=0.6) == {1}


def test_min_p_is_relative_to_the_top_probability() -> None:
    logits = np.log([0.04, 0.5, 0.16, 0.3]).tolist()
    assert reachable(logits, min_p=0.55) == {1, 3}
    assert reachable(logits, min_p=0.3) == {1, 2, 3}
    assert reachable(logits, min_p=1.0) == {1}


@pytest.mark.parametrize("width", [65, 1025, 5000])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.9999])
def test_the_nucleus_does_not_depend_on_the_number_of_candidates(width: int, share: float) -> None:
    """Flat and peaked rows in one batch: the search among a few candidates must not shorten the flat one."""
    random = np.random.default_rng(0)
    logits = np.stack([random.normal(size=width) * spread for spread in (0.01, 1.0, 9.0)]).astype(np.float32)
    sampling = SamplingParams(temperature=1.0, top_p=share)
    numbers = np.linspace(0, 0.9999, 100, dtype=np.float32)
    tokens = sample(torch.from_numpy(np.tile(logits, (100, 1))), sampling, torch.from_numpy(np.repeat(numbers, 3)))
    for row, column in zip(logits, tokens.reshape(100, 3).T.numpy(), strict=True):
        expected = probabilities(row.astype(np.float64), sampling, np.zeros(width, dtype=bool))
        assert (expected.cumsum()[column] >= numbers - TOLERANCE).all()
        assert (expected.cumsum()[column] - expected[column] <= numbers + TOLERANCE).all()


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
def test_frequencies_match_the_probabilities(settings: dict[str, float]) -> None:
    logits = np.random.default_rng(1).normal(size=30) * 1.2
    sampling = SamplingParams(**{**PLAIN, **settings, "seed": 5})  # type: ignore[arg-type]
    expected = probabilities(logits, sampling, np.zeros(30, dtype=bool))
    counts = np.bincount(sampled(logits, sampling, uniforms(5, 0, DRAWS)), minlength=30)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic, quantile = chi_square(counts[possible], expected[possible] * DRAWS)
    assert statistic < quantile


def test_the_chi_square_test_detects_a_slightly_wrong_temperature() -> None:
    logits = np.random.default_rng(1).normal(size=30) * 1.2
    right, wrong = (SamplingParams(**PLAIN, seed=5), SamplingParams(temperature=1.1, top_p=1.0, seed=5))
    expected = probabilities(logits, right, np.zeros(30, dtype=bool)) * DRAWS
    counts = np.bincount(sampled(logits, wrong, uniforms(5, 0, DRAWS)), minlength=30)
    statistic, quantile = chi_square(counts, expected)
    assert statistic > quantile


# ---------------------------------------------------------------- invalid and unusual logits

NAN, INF = float("nan"), float("inf")
SETTINGS = {
    "greedy": SamplingParams(temperature=0),
    "plain": SamplingParams(**PLAIN, seed=3),
    "cut": SamplingParams(top_k=3, top_p=0.9, min_p=0.01, repetition_penalty=1.3, seed=3),
    "cold": SamplingParams(temperature=5e-324, top_p=1.0),
}
BROKEN = {"all -inf": [-INF] * 4, "NaN": [0.0, NAN, 1.0, 2.0], "all NaN": [NAN] * 4, "+inf": [0.0, INF, 1.0, 2.0]}
ODD = {"ties": [1.0, 1.0, 1.0, 1.0], "vocabulary 1": [0.0], "one possible": [-INF, -INF, 2.0, -INF]}


# 4 kinds of broken logits × 3 settings, and 8 odd ones, with both samplers: 40 cases.
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
def test_unusual_logits_have_a_defined_and_reproducible_result(kind: str, how: str, expected: set[int]) -> None:
    numbers = uniforms(3, 0, 200)
    first = sampled(ODD[kind], SETTINGS[how], numbers)
    assert set(first) == expected
    assert sampled(ODD[kind], SETTINGS[how], uniforms(3, 0, 200)) == first


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_unit_interval_give_possible_tokens(uniform: float) -> None:
    """The ids at both ends are impossible, 40,000 equal weights make the sum inexact, and 1 is out of range."""
    logits = [-INF] * 10 + [0.1] * 40_000 + [-INF] * 10
    assert 10 <= sampled(logits, SamplingParams(**PLAIN), [uniform])[0] < 40_010


def test_logits_can_have_any_float_dtype() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert sample(logits.to(dtype), SamplingParams(seed=1), torch.tensor([0.5])).tolist() == [1]


def test_logits_are_not_changed() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    sample(logits, SETTINGS["cut"], torch.tensor([0.1, 0.9]), torch.ones(2, 9, dtype=torch.bool))
    assert torch.equal(logits, before)


def test_rows_with_different_parameters_are_sampled_in_one_call() -> None:
    """Each row gets the token that it gets in a batch of one row, with either sampler."""
    random = np.random.default_rng(2)
    logits = torch.from_numpy(random.normal(size=(64, 700)).astype(np.float32) * 2)
    settings = [
        SamplingParams(temperature=(0.0, 0.7, 1.3)[row % 3], top_k=(0, 5)[row % 2], top_p=(0.5, 0.9, 1.0)[row % 5 % 3],
                 repetition_penalty=(1.0, 1.5)[row % 4 // 2])
        for row in range(64)
    ]  # fmt: skip
    masks = [
        torch.from_numpy(random.random(700) < 0.2) if sampling.repetition_penalty != 1.0 else None
        for sampling in settings
    ]
    numbers = random.random(64).astype(np.float32).tolist()
    single: list[int] = []
    for row, (sampling, seen) in enumerate(zip(settings, masks, strict=True)):
        number = torch.tensor(numbers[row : row + 1])
        single.append(int(sample(logits[row : row + 1], sampling, number, None if seen is None else seen[None])))
    library = build.library().library
    for sampler in [TorchSampler(700), *([NativeSampler(library, 64, 700)] if library else [])]:
        states: list[Any] = [sampler.sampler_state(*arguments) for arguments in zip(settings, masks, strict=True)]
        assert sampler.sample(logits, states, numbers) == single


@pytest.mark.skipif(build.library().library is None, reason=build.library().warning)
def test_several_threads_sample_what_one_does_within_the_vocabulary_of_wider_rows() -> None:
    """The last hundred ids are the most likely but not in the vocabulary; the second call has fewer rows."""
    random = np.random.default_rng(3)
    logits = torch.from_numpy(random.normal(size=(64, 20_100)).astype(np.float32))
    logits[:, 20_000:] += 50
    numbers = random.random(64).astype(np.float32).tolist()
    library = build.library().library
    assert library is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        multi_threaded = NativeSampler(library, 64, 20_000)
    finally:
        torch.set_num_threads(before)
    for rows, sampling in (
        (64, SamplingParams(top_p=0.9)),
        (60, SamplingParams(temperature=1.2, top_p=1.0, min_p=0.01)),
    ):
        single_threaded = NativeSampler(library, 1, 20_000)
        state = single_threaded.sampler_state(sampling, None)
        expected = [
            single_threaded.sample(logits[row : row + 1], [state], numbers[row : row + 1])[0] for row in range(rows)
        ]
        states = [multi_threaded.sampler_state(sampling, None)] * rows
        assert multi_threaded.sample(logits[:rows], states, numbers[:rows]) == expected
        assert max(expected) < 20_000
