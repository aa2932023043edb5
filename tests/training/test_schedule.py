"""Tests of learning rate and batch size as functions of the step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.optimizer import OptimizerConfig, SchedulePhase
from fabella.config.training import MaxSteps, TrainingConfig
from fabella.optim import adamw
from fabella.run_config.files import load_config, preset
from fabella.training.schedule import (
    batch_size_at,
    batch_sizes,
    learning_rate,
    phase_steps,
    sequences_before,
    steps_for_sequences,
)


def rates(optimizer: OptimizerConfig, total: int, *steps: int) -> list[float]:
    return [learning_rate(optimizer, step, total) for step in steps]


def test_without_a_schedule_the_rate_is_the_peak() -> None:
    assert rates(adamw.Config(lr=1e-3), 10, 0, 5, 9) == [1e-3, 1e-3, 1e-3]


def test_piny_warms_up_in_50_steps_and_is_constant_at_a_tenth_after_6000() -> None:
    found = rates(preset("piny-37m").optimizer, 8000, 49, 5999, 7999)  # pyright: ignore[reportArgumentType]
    assert found == pytest.approx([9e-4, 9e-5, 9e-5])


def test_minigpt_rises_from_a_tenth_and_falls_back_to_it() -> None:
    optimizer = preset("minigpt-100m").optimizer
    found = rates(optimizer, 20_312, 0, 999, 20_311)  # pyright: ignore[reportArgumentType]
    assert found == pytest.approx([6e-5, 6e-4, 6e-5], rel=1e-2)


def test_the_first_update_of_a_warm_up_from_zero_is_not_wasted() -> None:
    optimizer = adamw.Config(lr=1.0, schedule=(SchedulePhase(shape="linear", start=0.0, end=1.0, length=4),))
    assert rates(optimizer, 8, 0, 1, 2, 3, 4) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_cosine_is_half_way_at_its_middle() -> None:
    optimizer = adamw.Config(lr=1.0, schedule=(SchedulePhase(shape="cosine", start=1.0, end=0.2, length="100%"),))
    assert rates(optimizer, 100, 0, 50, 100) == pytest.approx([1.0, 0.6, 0.2])


def test_warm_up_stable_decay_has_three_phases() -> None:
    schedule = (
        SchedulePhase(shape="linear", start=0.0, end=1.0, length=2),
        SchedulePhase(shape="linear", start=1.0, end=1.0, length=4),
        SchedulePhase(shape="linear", start=1.0, end=0.0, length=4),
    )
    found = rates(adamw.Config(lr=1.0, schedule=schedule), 10, *range(10))
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_a_phase_without_steps_is_skipped() -> None:
    schedule = (
        SchedulePhase(shape="linear", start=0.0, end=1.0, length="0%"),
        SchedulePhase(shape="linear", start=1.0, end=0.5, length=2),
    )
    assert rates(adamw.Config(lr=1.0, schedule=schedule), 4, 0, 1, 2) == [1.0, 0.75, 0.5]


def test_a_square_root_falls_fastest_at_first() -> None:
    optimizer = adamw.Config(lr=1.0, schedule=(SchedulePhase(shape="sqrt", start=1.0, end=0.0, length=100),))
    assert rates(optimizer, 100, 0, 25, 64, 99) == pytest.approx([1.0, 0.5, 0.2, 1 - 0.99**0.5])


def test_a_cut_phase_keeps_its_rates_and_its_last_value_holds_or_the_next_phase_begins() -> None:
    whole = SchedulePhase(shape="cosine", start=1.0, end=0.0, length=100)
    cut = whole.model_copy(update={"cut_after": 40})
    up = SchedulePhase(shape="linear", start=0.5, end=1.0, length=5)
    full = rates(adamw.Config(lr=1.0, schedule=(whole,)), 100, *range(41))
    assert rates(adamw.Config(lr=1.0, schedule=(cut,)), 100, *range(41)) == full
    assert rates(adamw.Config(lr=1.0, schedule=(cut,)), 100, 99) == full[-1:]
    assert rates(adamw.Config(lr=1.0, schedule=(cut, up)), 100, *range(41)) == [*full[:40], 0.6]


@pytest.mark.parametrize("name", ["gpt2-92m", "mingru-17m", "storybook-1m", "storybook-hybrid-1m", "minigpt-dev"])
@pytest.mark.parametrize("total", [15, 200, 801, 90_584])
def test_no_step_of_a_preset_is_wasted_at_a_rate_of_0(name: str, total: int) -> None:
    optimizer = preset(name).optimizer
    factors = [rate / optimizer.lr for rate in rates(optimizer, total, *range(total))]  # pyright: ignore[reportArgumentType]
    assert min(factors) > 0
    assert max(factors) == 1.0
    end = optimizer.schedule[-1].end
    assert learning_rate(optimizer, total, total) == end * optimizer.lr, "reached after the last step"


@pytest.mark.parametrize("length", ["nan%", "inf%", "101%", "-1%", -1, 2**31, "1e3", "x"])
def test_a_length_that_is_neither_steps_nor_a_share_is_refused(length: str | int) -> None:
    with pytest.raises(ValueError, match="is neither a number of steps"):
        SchedulePhase(shape="linear", start=1.0, end=0.0, length=length)


@given(shares=st.lists(st.integers(1, 60), min_size=1, max_size=5), total=st.integers(1, 2000))
def test_phases_of_100_percent_have_all_steps_of_the_run(shares: list[int], total: int) -> None:
    lengths = [f"{min(100 * share / sum(shares), 100)}%" for share in shares]
    phases = [SchedulePhase(shape="linear", start=1.0, end=1.0, length=length) for length in lengths]
    assert sum(taken for _, taken in phase_steps(phases, total)) == total


SCHEDULES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=0, max_size=4).map(
    lambda steps: ((0, 2), *zip(itertools.accumulate(n for n, _ in steps), (count for _, count in steps), strict=True))
)


@given(accumulation=SCHEDULES, micro_batch=st.integers(1, 5), step=st.integers(0, 150))
def test_the_position_in_the_data_is_the_sum_of_all_batches_before(accumulation, micro_batch: int, step: int) -> None:
    training = TrainingConfig(
        length=MaxSteps(max_steps=1), micro_batch_size=micro_batch, gradient_accumulation=accumulation
    )
    sizes = [batch_size_at(training, number) for number in range(step)]
    assert sequences_before(training, step) == sum(sizes)
    assert list(itertools.islice(batch_sizes(training, 0), step)) == sizes


GROWING = ["training.micro_batch_size=6", "training.gradient_accumulation=[[0, 8], [8750, 16], [13125, 32]]"]


@pytest.mark.parametrize(
    ("step", "num_sequences", "before"),
    [
        (0, 48, 0),
        (8749, 48, 48 * 8749),
        (8750, 96, 48 * 8750),
        (13124, 96, 48 * 8750 + 96 * 4374),
        (13125, 192, 48 * 8750 + 96 * 4375),
        (20_000, 192, 48 * 8750 + 96 * 4375 + 192 * 6875),
    ],
)
def test_a_growing_global_batch_grows_at_its_steps(step: int, num_sequences: int, before: int) -> None:
    training = load_config("minigpt-100m", GROWING).training
    assert batch_size_at(training, step) == num_sequences
    assert sequences_before(training, step) == before
    assert next(batch_sizes(training, step)) == num_sequences


@given(accumulation=SCHEDULES, num_sequences=st.integers(1, 2000))
def test_steps_for_returns_the_fewest_steps_that_use_all_sequences(accumulation, num_sequences: int) -> None:
    training = TrainingConfig(length=MaxSteps(max_steps=1), micro_batch_size=3, gradient_accumulation=accumulation)
    steps = steps_for_sequences(training, num_sequences)
    assert sequences_before(training, steps - 1) < num_sequences <= sequences_before(training, steps)
