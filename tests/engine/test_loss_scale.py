"""The dynamic loss scale of fp16."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config import Float16
from fabella.engine.loss_scale import LossScale
from fabella.errors import NumericsError


def test_the_scale_doubles_after_the_growth_period_and_halves_on_a_bad_step() -> None:
    scale = LossScale.of(Float16(initial_scale=256.0, growth_steps=3))
    values = []
    for finite in (True, True, True, True, False, True, True, True):
        scale.update(finite)
        values.append(scale.value)
    assert values == [256, 256, 512, 512, 256, 256, 256, 512]


def test_a_loss_that_is_never_finite_ends_the_training() -> None:
    scale = LossScale.of(Float16(initial_scale=1.0))
    for _ in range(20):
        scale.update(finite=False)
    with pytest.raises(NumericsError, match="not finite at any loss scale"):
        scale.update(finite=False)


@given(before=st.lists(st.booleans(), max_size=15), after=st.lists(st.booleans(), max_size=15))
def test_a_restored_scale_goes_on_as_if_it_had_never_been_saved(before: list[bool], after: list[bool]) -> None:
    precision = Float16(initial_scale=2.0**30, growth_steps=3)
    straight, saved, resumed = (LossScale.of(precision) for _ in range(3))
    for finite in before:
        straight.update(finite)
        saved.update(finite)
    resumed.restore(saved.numbers())
    for finite in after:
        straight.update(finite)
        resumed.update(finite)
    assert resumed == straight
    assert straight.skipped == [*before, *after].count(False)


def test_a_run_that_had_no_scale_begins_with_a_new_one() -> None:
    scale = LossScale.of(Float16(initial_scale=256.0))
    scale.restore({"step": 10})
    assert (scale.value, scale.good_steps, scale.skipped) == (256.0, 0, 0)
