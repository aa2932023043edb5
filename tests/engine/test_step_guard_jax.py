"""Tests that the step guard of JAX agrees with the reference in Python, inside a compiled step."""

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
from tests.engine.test_step_guard_torch import BROKEN, OVERFLOWED, SOUND, STEPS, Reference

NAMES = ("first", "second")
compiled = partial(jax.jit, static_argnums=0)(check)


def checked(config: GuardConfig, tensors: GuardTensors, step: int, what: str) -> tuple[GuardTensors, bool]:
    """Check a step with two gradients: OVERFLOWED makes the second one infinite, BROKEN the loss NaN as well."""
    squares = np.array([1.0, 1.0 if what == SOUND else math.inf], np.float32)
    measured = np.float32(math.nan if what == BROKEN else 2.0), np.sqrt(squares.sum())
    tensors, applied = compiled(config, tensors, np.int32(step), measured, squares)
    return tensors, bool(applied)


def after(config: GuardConfig, *steps: str, tensors: Any = None) -> GuardTensors:
    tensors = tensors or GuardTensors.from_scalars(config, {})
    for step, what in enumerate(steps, start=1):
        tensors, _ = checked(config, tensors, step, what)
    return tensors


@given(
    limit=st.integers(1, 2),
    fp16=st.sampled_from(
        [None, Float16(initial_loss_scale=1.0, loss_scale_growth_interval=3), Float16(initial_loss_scale=2.0**126)]
    ),
    steps=STEPS,
)
def test_the_guard_agrees_with_the_reference(limit: int, fp16: Float16 | None, steps: list[str]) -> None:
    config, reference = GuardConfig.create(SkipStep(max_consecutive=limit), fp16), Reference(limit, fp16)
    tensors = GuardTensors.from_scalars(config, {})
    for step, what in enumerate(steps, start=1):
        tensors, applied = checked(config, tensors, step, what)
        assert applied == reference.check(step, what)
    good = reference.good if fp16 else 0
    assert tensors.state() == GuardState(reference.skipped, reference.consecutive, reference.scale, good)
    assert int(tensors.failed_step) == reference.failed


def test_restored_counters_continue_like_ones_that_were_never_saved() -> None:
    config = GuardConfig.create(
        SkipStep(max_consecutive=9), Float16(initial_loss_scale=2.0**30, loss_scale_growth_interval=2)
    )
    saved = after(config, SOUND, OVERFLOWED, BROKEN, SOUND)
    resumed = GuardTensors.from_scalars(config, saved.state().scalars(config))
    later = [SOUND, SOUND, SOUND, OVERFLOWED]
    assert after(config, *later, tensors=resumed).state() == after(config, *later, tensors=saved).state()


def test_a_state_without_a_loss_scale_gets_the_initial_one() -> None:
    config = GuardConfig.create(Stop(), Float16(initial_loss_scale=256.0))
    assert GuardTensors.from_scalars(config, {"step": 10}).state() == GuardState(loss_scale=256.0)
    assert GuardTensors.from_scalars(config, {"loss_scale": 8.0, "consecutive_skips": 3}).state() == GuardState(
        loss_scale=8.0
    )


def test_a_failed_step_is_reported_even_if_read_late() -> None:
    config = GuardConfig.create(Stop(), None)
    message = r"Step 2: loss nan; the gradient of second is not finite\. The weights did not change\. Resume with"
    with pytest.raises(NonFiniteStepError, match=message) as error:
        after(config, SOUND, BROKEN, SOUND, OVERFLOWED).read(config, NAMES)
    assert error.value.step == 2
    config = GuardConfig.create(SkipStep(max_consecutive=2), None)
    assert after(config, BROKEN, SOUND, BROKEN).read(config, NAMES) == {"skipped_steps": 2}
    with pytest.raises(NonFiniteStepError, match="Step 3, the last of 2 in a row: loss 2; the gradient of second"):
        after(config, SOUND, BROKEN, OVERFLOWED).read(config, NAMES)
    config = GuardConfig.create(Stop(), Float16(initial_loss_scale=1.0))
    with pytest.raises(NonFiniteStepError, match=r"Step 21, at a loss scale of 4\.77e-07"):
        after(config, *[OVERFLOWED] * 21).read(config, NAMES)
