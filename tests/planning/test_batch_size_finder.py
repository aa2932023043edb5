"""Tests that the finder returns the largest and the fastest micro-batch size and keeps the global batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import UsageError
from fabella.planning import batch_size_finder
from fabella.planning.batch_size_finder import candidate_sizes, find_batch_size, search, with_micro_batch_size
from fabella.planning.probe import ProbeLimits, ProbeResult
from fabella.run_config.files import load_config, preset
from fabella.training.schedule import batch_size_at

LIMITS = ProbeLimits(limit=10**9, on_gpu=False, seconds=60)


def trial(size: int, limit: int) -> ProbeResult:
    return ProbeResult(micro_batch_size=size, reason="" if size <= limit else "memory", tokens_per_second=float(size))


@given(st.sets(st.integers(1, 10_000), min_size=1).map(sorted), st.integers(0, 12_000))
def test_the_search_finds_the_largest_that_fits(sizes: list[int], limit: int) -> None:
    results = search(sizes, lambda size: trial(size, limit))
    assert max((t.micro_batch_size for t in results if t.fits), default=0) == max(
        (s for s in sizes if s <= limit), default=0
    )
    assert len({t.micro_batch_size for t in results}) == len(results), "no size is probed twice"


def test_the_search_doubles_and_then_bisects() -> None:
    results = search(range(1, 1001), lambda size: trial(size, 90))
    assert [t.micro_batch_size for t in results] == [1, 2, 4, 8, 16, 32, 64, 128, 96, 80, 88, 92, 90, 91]


def test_if_the_smallest_does_not_fit_no_other_is_probed() -> None:
    assert [t.micro_batch_size for t in search([1, 2, 4], lambda size: trial(size, 0))] == [1]


def test_only_divisors_of_every_global_batch_are_probed() -> None:
    assert candidate_sizes(preset("minigpt-100m").training) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    odd = load_config(
        "storybook-1m", ["training.micro_batch_size=6", "training.gradient_accumulation=[[0, 2], [10, 3]]"]
    ).training
    assert candidate_sizes(odd) == [1, 2, 3, 6]


@pytest.mark.parametrize("name", ["minigpt-100m", "piny-37m", "tinystories-8m"])
def test_every_size_keeps_the_global_batch_of_every_step(name: str) -> None:
    run = preset(name)
    for size in candidate_sizes(run.training):
        changed = with_micro_batch_size(run, size).training
        assert changed.micro_batch_size == size
        for step in (0, 8_749, 8_750, 13_125, 20_000):
            assert batch_size_at(changed, step) == batch_size_at(run.training, step)


SPEEDS = {1: 50.0, 2: 97.0, 4: 98.0, 8: 100.0, 16: 80.0}


def test_the_fastest_is_the_smallest_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_config("storybook-1m", ["training.micro_batch_size=32", "training.gradient_accumulation=[[0, 1]]"])
    monkeypatch.setattr(
        batch_size_finder,
        "probe_batch_size",
        lambda run, size, limits: ProbeResult(
            micro_batch_size=size, reason="" if size < 32 else "killed", tokens_per_second=SPEEDS.get(size, 0.0)
        ),
    )
    reported: list[int] = []
    result = find_batch_size(run, LIMITS, report=lambda t: reported.append(t.micro_batch_size))
    assert (result.largest.micro_batch_size, result.fastest.micro_batch_size) == (16, 2)
    assert reported == [1, 2, 4, 8, 16, 32]
    assert find_batch_size(run, LIMITS, max_size=5).largest.micro_batch_size == 4


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (
            "memory",
            r"A micro-batch of 1 sequence of 288 tokens needs more memory than available: 1 GB\. "
            r"Try training\.gradient_checkpointing=blocks, a shorter data\.sequences\.length, or a smaller model; "
            r"or free memory\.",
        ),
        (
            "killed",
            r"A micro-batch of 1 sequence of 288 tokens was killed, probably because the machine ran out of memory: ",
        ),
        ("time", r"A micro-batch of 1 took too long: over 60 seconds for a few steps\. Give it more time"),
    ],
)
def test_the_error_for_no_fitting_micro_batch_has_a_hint(
    reason: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        batch_size_finder,
        "probe_batch_size",
        lambda run, size, limits: ProbeResult(micro_batch_size=size, reason=reason),
    )
    with pytest.raises(UsageError, match=message):
        find_batch_size(preset("storybook-1m"), LIMITS)
