"""Tests that the schedule of an extended run keeps the rates of past steps, and that the rate never jumps."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.optimizer import Schedule, SchedulePhase
from fabella.errors import ConfigError
from fabella.training.schedule import lr_factor
from fabella.training.setup.extend import CHANGES, ScheduleChange, change_schedule, parse_schedule_change

TOTAL = 400
WARM_UP = SchedulePhase(shape="linear", start=0.0, end=1.0, length="5%")
STABLE = SchedulePhase(shape="linear", start=1.0, end=1.0, length="75%")
SHAPES: dict[str, Schedule] = {
    "constant": (),
    "warm-up": (WARM_UP,),
    "linear": (WARM_UP, SchedulePhase(shape="linear", start=1.0, end=0.0, length="95%")),
    "cosine": (WARM_UP, SchedulePhase(shape="cosine", start=1.0, end=0.1, length="95%")),
    "stable-decay": (WARM_UP, STABLE, SchedulePhase(shape="sqrt", start=1.0, end=0.0, length="20%")),
    "steps": (
        SchedulePhase(shape="linear", start=0.1, end=1.0, length=50),
        SchedulePhase(shape="cosine", start=1.0, end=0.1, length=300),
    ),
}
SCHEDULES = pytest.mark.parametrize("phases", SHAPES.values(), ids=SHAPES)


def factors(phases: Schedule, total: int, first: int = 0) -> list[float]:
    return [lr_factor(phases, step, total) for step in range(first, total)]


def largest_jump(values: list[float]) -> float:
    return max(abs(later - earlier) for earlier, later in itertools.pairwise(values))


@SCHEDULES
@pytest.mark.parametrize(("step", "after"), [(TOTAL, TOTAL + 7), (TOTAL, 2 * TOTAL), (250, 10 * TOTAL)])
@pytest.mark.fault("I5", cases=1)
def test_a_longer_run_keeps_the_rates_that_it_had_and_never_jumps(phases: Schedule, step: int, after: int) -> None:
    longer = change_schedule(phases, "auto", step=step, before=TOTAL, after=after)
    values = factors(longer, after)
    assert values[:step] == factors(phases, TOTAL)[:step], "bit for bit"
    assert abs(values[step] - values[step - 1]) <= 0.05 + 1e-9
    assert largest_jump(values[step:]) <= max(0.05, largest_jump(factors(phases, TOTAL))) + 1e-9
    assert min(values) > 0, "no step is wasted"


@SCHEDULES
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", [1, 10, 20, 21, 250, 399, TOTAL])
def test_steps_taken_keep_their_rates_whatever_follows(phases: Schedule, change: ScheduleChange, step: int) -> None:
    if change == "stretch":
        return
    if change in {"hold", "decay"} and lr_factor(phases, step, TOTAL) == 0.0:
        with pytest.raises(ConfigError, match=r"--schedule .* would train without effect\. Use --schedule rewarm"):
            change_schedule(phases, change, step=step, before=TOTAL, after=600)
        return
    changed = change_schedule(phases, change, step=step, before=TOTAL, after=600)
    assert factors(changed, 600)[:step] == factors(phases, TOTAL)[:step]


def test_a_decay_that_is_not_over_takes_longer_from_the_present_rate() -> None:
    longer = change_schedule(SHAPES["linear"], "auto", step=200, before=TOTAL, after=1000)
    values = factors(longer, 1000)
    present = lr_factor(SHAPES["linear"], 200, TOTAL)
    assert values[200] == present
    assert values[600] == pytest.approx(present / 2)
    assert values[999] == pytest.approx(present / 800)


def test_a_finished_decay_to_0_warms_up_again_and_decays_again() -> None:
    longer = change_schedule(SHAPES["linear"], "auto", step=TOTAL, before=TOTAL, after=1400)
    assert [phase.length for phase in longer] == [20, 380, 50, 950]
    assert factors(longer, 1400)[449] == 1.0
    assert lr_factor(longer, 1400, 1400) == 0.0


def test_a_finished_decay_holds_its_end_rate() -> None:
    longer = change_schedule(SHAPES["cosine"], "auto", step=TOTAL, before=TOTAL, after=1400)
    assert set(factors(longer, 1400, first=TOTAL)) == {0.1}


def test_a_schedule_in_steps_that_ends_before_the_run_does_not_change() -> None:
    for step in (100, 349, 350, TOTAL):
        assert change_schedule(SHAPES["steps"], "auto", step=step, before=TOTAL, after=1400) == SHAPES["steps"]


def test_the_stable_phase_and_the_decay_are_stretched_alike() -> None:
    longer = change_schedule(SHAPES["stable-decay"], "auto", step=160, before=TOTAL, after=160 + 2 * 240)
    assert [(phase.shape, phase.length) for phase in longer[2:]] == [("linear", 320), ("sqrt", 160)]


def test_a_run_can_decay_from_any_step() -> None:
    longer = change_schedule(SHAPES["stable-decay"], "decay", step=160, before=TOTAL, after=200)
    assert (longer[-1].shape, longer[-1].start, longer[-1].end, longer[-1].length) == ("sqrt", 1.0, 0.0, 40)
    plain = change_schedule((), "decay", step=100, before=TOTAL, after=200)
    assert (plain[-1].shape, plain[-1].start, plain[-1].end) == ("linear", 1.0, 0.0)


def test_hold_keeps_the_present_rate() -> None:
    held = change_schedule(SHAPES["linear"], "hold", step=200, before=TOTAL, after=1000)
    assert set(factors(held, 1000, first=200)) == {lr_factor(SHAPES["linear"], 200, TOTAL)}


def test_a_fresh_optimizer_warms_up_from_0() -> None:
    changed = change_schedule(SHAPES["stable-decay"], "rewarm", step=200, before=TOTAL, after=1000, from_zero=True)
    assert factors(changed, 1000)[200:203] == pytest.approx([1 / 40, 2 / 40, 3 / 40])


def test_a_few_more_steps_warm_up_as_far_as_they_reach() -> None:
    for more in range(1, 60):
        values = factors(
            change_schedule(SHAPES["linear"], "auto", step=TOTAL, before=TOTAL, after=TOTAL + more), TOTAL + more
        )
        assert min(values) > 0
        assert abs(values[TOTAL] - values[TOTAL - 1]) <= 0.05 + 1e-9


def test_an_unknown_change_is_refused_with_the_nearest() -> None:
    assert parse_schedule_change("rewarm") == "rewarm"
    with pytest.raises(ConfigError, match=r"Unknown --schedule 'rewarn'\. Did you mean 'rewarm'"):
        parse_schedule_change("rewarn")


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    lengths=st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1)), min_size=1, max_size=5),
    start=st.integers(2, 300),
)
def test_a_run_may_be_extended_again_and_again(shape: str, lengths: list[tuple[int, float]], start: int) -> None:
    phases, total, step = SHAPES[shape], start, 0
    for more, share in lengths:
        step += round((total - step) * share)
        before = factors(phases, total)[:step]
        phases = change_schedule(phases, "auto", step=step, before=total, after=total + more)
        total += more
        assert factors(phases, total)[:step] == before
        if step:
            values = factors(phases, total)
            assert abs(values[step] - lr_factor(phases, step - 1, total)) <= max(
                0.05 + 1e-9, largest_jump(factors(SHAPES[shape], start)) + 1e-9
            )
