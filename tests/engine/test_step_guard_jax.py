"""Which steps the JAX engine takes: the same law as in test_ledger_torch.py, within a compiled step."""

import math
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.training import Float16, SkipStep, Stop
from fabella.engine.step_guard import GuardConfig, GuardState
from fabella.engine.step_guard_jax import GuardTensors, check
from fabella.errors import NonFiniteStepError
from tests.engine.test_step_guard_torch import BROKEN, OVERFLOWED, SOUND, STEPS, Law

NAMES = ("first", "second")
compiled = partial(jax.jit, static_argnums=0)(check)


def judged(rules: GuardConfig, counts: GuardTensors, step: int, what: str) -> tuple[GuardTensors, bool]:
    """A step of two gradients; the second is not finite where it overflowed, and with it the loss where it broke."""
    squares = np.array([1.0, 1.0 if what == SOUND else math.inf], np.float32)
    measured = np.float32(math.nan if what == BROKEN else 2.0), np.sqrt(squares.sum())
    counts, taken = compiled(rules, counts, np.int32(step), measured, squares)
    return counts, bool(taken)


def after(rules: GuardConfig, *steps: str, counts: Any = None) -> GuardTensors:
    counts = counts or GuardTensors.of(rules, {})
    for step, what in enumerate(steps, start=1):
        counts, _ = judged(rules, counts, step, what)
    return counts


@given(
    limit=st.integers(1, 2),
    fp16=st.sampled_from(
        [None, Float16(initial_loss_scale=1.0, loss_scale_growth_interval=3), Float16(initial_loss_scale=2.0**126)]
    ),
    steps=STEPS,
)
def test_the_device_counts_as_plain_numbers_do(limit: int, fp16: Float16 | None, steps: list[str]) -> None:
    rules, law = GuardConfig.of(SkipStep(max_consecutive=limit), fp16), Law(limit, fp16)
    counts = GuardTensors.of(rules, {})
    for step, what in enumerate(steps, start=1):
        counts, taken = judged(rules, counts, step, what)
        assert taken == law.judge(step, what)
    good = law.good if fp16 else 0
    assert counts.known() == GuardState(law.skipped, law.in_a_row, law.scale, good)
    assert int(counts.failed) == law.failed


def test_what_was_saved_goes_on_as_if_it_had_never_been() -> None:
    rules = GuardConfig.of(
        SkipStep(max_consecutive=9), Float16(initial_loss_scale=2.0**30, loss_scale_growth_interval=2)
    )
    saved = after(rules, SOUND, OVERFLOWED, BROKEN, SOUND)
    resumed = GuardTensors.of(rules, saved.known().numbers(rules))
    later = [SOUND, SOUND, SOUND, OVERFLOWED]
    assert after(rules, *later, counts=resumed).known() == after(rules, *later, counts=saved).known()


def test_a_run_that_had_no_scale_begins_with_a_new_one() -> None:
    rules = GuardConfig.of(Stop(), Float16(initial_loss_scale=256.0))
    assert GuardTensors.of(rules, {"step": 10}).known() == GuardState(scale=256.0)
    assert GuardTensors.of(rules, {"loss_scale": 8.0, "consecutive_skips": 3}).known() == GuardState(scale=8.0)


def test_what_failed_is_told_however_late_somebody_looks() -> None:
    rules = GuardConfig.of(Stop(), None)
    message = (
        r"Step 2: loss nan; the gradient of second is not finite\. The weights were left as they were\. Resume with"
    )
    with pytest.raises(NonFiniteStepError, match=message) as error:
        after(rules, SOUND, BROKEN, SOUND, OVERFLOWED).read(rules, NAMES)
    assert error.value.step == 2
    rules = GuardConfig.of(SkipStep(max_consecutive=2), None)
    assert after(rules, BROKEN, SOUND, BROKEN).read(rules, NAMES) == {"skipped_steps": 2}
    with pytest.raises(NonFiniteStepError, match="Step 3, the last of 2 in a row: loss 2; the gradient of second"):
        after(rules, SOUND, BROKEN, OVERFLOWED).read(rules, NAMES)
    rules = GuardConfig.of(Stop(), Float16(initial_loss_scale=1.0))
    with pytest.raises(NonFiniteStepError, match=r"Step 21, at a loss scale of 4\.77e-07"):
        after(rules, *[OVERFLOWED] * 21).read(rules, NAMES)
