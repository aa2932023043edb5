"""Tests that the step guard of PyTorch agrees with a reference in Python."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.training import Float16, RollBack, SkipStep, Stop
from fabella.engine.step_guard import MAX_LOSS_SCALE, MIN_LOSS_SCALE
from fabella.engine.step_guard_torch import StepGuard
from fabella.errors import NonFiniteStepError

CPU = torch.device("cpu")
SOUND, OVERFLOWED, BROKEN = "sound", "overflowed", "broken"
STEPS = st.lists(st.sampled_from([SOUND, SOUND, OVERFLOWED, BROKEN]), max_size=25)


def check(guard: StepGuard, step: int, what: str) -> bool:
    """Check a step with two gradients: OVERFLOWED makes the second one infinite, BROKEN the loss NaN as well."""
    norms = torch.tensor([1.0, 1.0 if what == SOUND else math.inf])
    loss = torch.tensor(math.nan if what == BROKEN else 2.0)
    guard.names = ["first", "second"]
    return bool(guard.check(step, loss, torch.linalg.vector_norm(norms), norms))


@dataclass
class Reference:
    """The step guard in Python numbers, for a loop that waits for the device after each step."""

    limit: int
    fp16: Float16 | None
    skipped: int = 0
    consecutive: int = 0
    good: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.scale = self.fp16.initial_loss_scale if self.fp16 else 1.0

    def check(self, step: int, what: str) -> bool:
        if self.failed:
            return False
        if what == SOUND:
            self.consecutive = 0
            self.good += 1 if self.fp16 else 0
            if self.fp16 and self.good == self.fp16.loss_scale_growth_interval:
                self.scale, self.good = min(self.scale * 2, MAX_LOSS_SCALE), 0
            return True
        self.skipped += 1
        if self.fp16 and what == OVERFLOWED:
            self.scale, self.good = self.scale / 2, 0
        else:
            self.consecutive += 1
        if self.consecutive >= self.limit or self.scale < MIN_LOSS_SCALE:
            self.failed = step
        return False


@given(
    limit=st.integers(1, 3),
    fp16=st.sampled_from(
        [None, Float16(initial_loss_scale=1.0, loss_scale_growth_interval=3), Float16(initial_loss_scale=2.0**126)]
    ),
    steps=STEPS,
)
def test_the_guard_agrees_with_the_reference(limit: int, fp16: Float16 | None, steps: list[str]) -> None:
    guard, reference = StepGuard(SkipStep(max_consecutive=limit), fp16, CPU), Reference(limit, fp16)
    for step, what in enumerate(steps, start=1):
        assert check(guard, step, what) == reference.check(step, what)
    tensors = guard.tensors
    counters = [
        int(n) for n in (tensors.skipped_steps, tensors.consecutive_skips, tensors.good_steps, tensors.failed_step)
    ]
    assert counters == [reference.skipped, reference.consecutive, reference.good, reference.failed]
    assert float(tensors.loss_scale) == reference.scale


@given(before=STEPS, after=STEPS)
def test_a_restored_guard_decides_like_one_that_was_never_saved(before: list[str], after: list[str]) -> None:
    def new_guard() -> StepGuard:
        return StepGuard(
            SkipStep(max_consecutive=1000), Float16(initial_loss_scale=2.0**30, loss_scale_growth_interval=3), CPU
        )

    uninterrupted, saved, resumed = new_guard(), new_guard(), new_guard()
    for step, what in enumerate(before):
        check(uninterrupted, step, what)
        check(saved, step, what)
    resumed.restore(saved.scalars())
    for step, what in enumerate(after):
        assert check(resumed, step, what) == check(uninterrupted, step, what)
    assert resumed.scalars() == uninterrupted.scalars()


def test_a_state_without_a_loss_scale_gets_the_initial_one() -> None:
    guard = StepGuard(Stop(), Float16(initial_loss_scale=256.0), CPU)
    check(guard, 1, OVERFLOWED)
    guard.restore({"step": 10})
    assert guard.scalars() == {
        "skipped_steps": 0, "consecutive_skips": 0, "loss_scale": 256.0, "good_steps": 0
    }  # fmt: skip


def test_training_fails_when_gradients_overflow_at_every_loss_scale() -> None:
    guard = StepGuard(Stop(), Float16(initial_loss_scale=1.0), CPU)
    for step in range(1, 21):
        check(guard, step, OVERFLOWED)
        assert guard.read(guard.tensors)["skipped_steps"] == step
    check(guard, 21, OVERFLOWED)
    with pytest.raises(
        NonFiniteStepError, match=r"Step 21, at a loss scale of 4\.77e-07: loss 2; the gradient of second is not"
    ):
        guard.read(guard.tensors)


@pytest.mark.parametrize("policy", [Stop(), RollBack()])
def test_no_step_is_applied_after_a_failed_one_that_is_read_late(policy: Any) -> None:
    """On a GPU the result is read some steps later; the error still names the failed step."""
    guard = StepGuard(policy, None, CPU)
    applied = [check(guard, step, what) for step, what in enumerate([SOUND, BROKEN, SOUND, OVERFLOWED, SOUND], start=1)]
    assert applied == [True, False, False, False, False]
    message = r"Step 2: loss nan; the gradient of second is not finite\. The weights did not change\. Resume with"
    with pytest.raises(NonFiniteStepError, match=message) as error:
        guard.read(guard.tensors)
    assert error.value.step == 2


def test_nonfinite_steps_are_skipped_up_to_the_consecutive_limit() -> None:
    guard = StepGuard(SkipStep(max_consecutive=2), None, CPU)
    for step, what in enumerate([BROKEN, SOUND, OVERFLOWED, SOUND, BROKEN], start=1):
        check(guard, step, what)
    assert guard.read(guard.tensors) == {"skipped_steps": 3}
    check(guard, 6, BROKEN)
    with pytest.raises(NonFiniteStepError, match=r"Step 6, the last of 2 in a row: loss nan"):
        guard.read(guard.tensors)


def test_a_nonfinite_loss_is_skipped_even_if_all_gradients_are_finite() -> None:
    guard = StepGuard(Stop(), None, CPU)
    guard.names = ["only"]
    assert not guard.check(1, torch.tensor(math.inf), torch.tensor(1.0), torch.tensor([1.0]))
    with pytest.raises(NonFiniteStepError, match="Step 1: loss inf; all gradients are finite"):
        guard.read(guard.tensors)


def test_the_counters_of_a_step_are_not_changed_by_later_steps() -> None:
    guard = StepGuard(SkipStep(max_consecutive=9), None, CPU)
    check(guard, 1, BROKEN)
    earlier = guard.tensors
    check(guard, 2, BROKEN)
    assert guard.read(earlier) == {"skipped_steps": 1}


@pytest.mark.gpu
def test_on_a_gpu_no_step_waits_for_the_device() -> None:
    guard = StepGuard(SkipStep(), Float16(), torch.device("cuda"))
    loss, norms = torch.ones((), device="cuda"), torch.ones(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard.check(1, loss, torch.linalg.vector_norm(norms), norms)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.read(guard.tensors)["skipped_steps"] == 0
