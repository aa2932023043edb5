"""Which steps are taken, counted on the device: the law of it in plain numbers, and what is said."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.training import Float16, RollBack, SkipStep, Stop
from fabella.engine.step_guard_torch import LARGEST, SMALLEST, StepGuard
from fabella.errors import NonFiniteStepError

CPU = torch.device("cpu")
SOUND, OVERFLOWED, BROKEN = "sound", "overflowed", "broken"
STEPS = st.lists(st.sampled_from([SOUND, SOUND, OVERFLOWED, BROKEN]), max_size=25)


def judge(ledger: StepGuard, step: int, what: str) -> bool:
    """A step of two gradients; the second is not finite where it overflowed, and with it the loss where it broke."""
    norms = torch.tensor([1.0, 1.0 if what == SOUND else math.inf])
    loss = torch.tensor(math.nan if what == BROKEN else 2.0)
    ledger.names = ["first", "second"]
    return bool(ledger.check(step, loss, torch.linalg.vector_norm(norms), norms))


@dataclass
class Law:
    """The same in plain numbers, as a loop that waits would have it."""

    limit: int
    fp16: Float16 | None
    skipped: int = 0
    in_a_row: int = 0
    good: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.scale = self.fp16.initial_loss_scale if self.fp16 else 1.0

    def judge(self, step: int, what: str) -> bool:
        if self.failed:
            return False
        if what == SOUND:
            self.in_a_row = 0
            self.good += 1 if self.fp16 else 0
            if self.fp16 and self.good == self.fp16.loss_scale_growth_interval:
                self.scale, self.good = min(self.scale * 2, LARGEST), 0
            return True
        self.skipped += 1
        if self.fp16 and what == OVERFLOWED:
            self.scale, self.good = self.scale / 2, 0
        else:
            self.in_a_row += 1
        if self.in_a_row >= self.limit or self.scale < SMALLEST:
            self.failed = step
        return False


@given(
    limit=st.integers(1, 3),
    fp16=st.sampled_from(
        [None, Float16(initial_loss_scale=1.0, loss_scale_growth_interval=3), Float16(initial_loss_scale=2.0**126)]
    ),
    steps=STEPS,
)
def test_the_device_counts_as_plain_numbers_do(limit: int, fp16: Float16 | None, steps: list[str]) -> None:
    ledger, law = StepGuard(SkipStep(max_consecutive=limit), fp16, CPU), Law(limit, fp16)
    for step, what in enumerate(steps, start=1):
        assert judge(ledger, step, what) == law.judge(step, what)
    counts = ledger.counts
    found = [int(n) for n in (counts.skipped, counts.consecutive_skips, counts.good, counts.failed)]
    assert found == [law.skipped, law.in_a_row, law.good, law.failed]
    assert float(counts.scale) == law.scale


@given(before=STEPS, after=STEPS)
def test_a_restored_ledger_goes_on_as_if_it_had_never_been_saved(before: list[str], after: list[str]) -> None:
    def fresh() -> StepGuard:
        return StepGuard(
            SkipStep(max_consecutive=1000), Float16(initial_loss_scale=2.0**30, loss_scale_growth_interval=3), CPU
        )

    straight, saved, resumed = fresh(), fresh(), fresh()
    for step, what in enumerate(before):
        judge(straight, step, what)
        judge(saved, step, what)
    resumed.restore(saved.numbers())
    for step, what in enumerate(after):
        assert judge(resumed, step, what) == judge(straight, step, what)
    assert resumed.numbers() == straight.numbers()


def test_a_run_that_had_no_scale_begins_with_a_new_one() -> None:
    ledger = StepGuard(Stop(), Float16(initial_loss_scale=256.0), CPU)
    judge(ledger, 1, OVERFLOWED)
    ledger.restore({"step": 10})
    assert ledger.numbers() == {
        "skipped_steps": 0, "consecutive_skips": 0, "loss_scale": 256.0, "good_steps": 0
    }  # fmt: skip


def test_gradients_that_overflow_at_any_loss_scale_end_the_training() -> None:
    ledger = StepGuard(Stop(), Float16(initial_loss_scale=1.0), CPU)
    for step in range(1, 21):
        judge(ledger, step, OVERFLOWED)
        assert ledger.read(ledger.counts)["skipped_steps"] == step
    judge(ledger, 21, OVERFLOWED)
    with pytest.raises(
        NonFiniteStepError, match=r"Step 21, at a loss scale of 4\.77e-07: loss 2; the gradient of second is not"
    ):
        ledger.read(ledger.counts)


@pytest.mark.parametrize("policy", [Stop(), RollBack()])
def test_after_the_first_step_that_failed_none_is_taken_until_somebody_looks(policy: Any) -> None:
    """On a GPU nobody looks at once: weights and moments stay those before it, and it is still told which it was."""
    ledger = StepGuard(policy, None, CPU)
    taken = [judge(ledger, step, what) for step, what in enumerate([SOUND, BROKEN, SOUND, OVERFLOWED, SOUND], start=1)]
    assert taken == [True, False, False, False, False]
    message = (
        r"Step 2: loss nan; the gradient of second is not finite\. The weights were left as they were\. Resume with"
    )
    with pytest.raises(NonFiniteStepError, match=message) as error:
        ledger.read(ledger.counts)
    assert error.value.step == 2


def test_steps_may_be_left_out_but_not_too_many_in_a_row() -> None:
    ledger = StepGuard(SkipStep(max_consecutive=2), None, CPU)
    for step, what in enumerate([BROKEN, SOUND, OVERFLOWED, SOUND, BROKEN], start=1):
        judge(ledger, step, what)
    assert ledger.read(ledger.counts) == {"skipped_steps": 3}
    judge(ledger, 6, BROKEN)
    with pytest.raises(NonFiniteStepError, match=r"Step 6, the last of 2 in a row: loss nan"):
        ledger.read(ledger.counts)


def test_a_loss_that_is_not_finite_is_never_taken_even_where_all_gradients_are() -> None:
    ledger = StepGuard(Stop(), None, CPU)
    ledger.names = ["only"]
    assert not ledger.check(1, torch.tensor(math.inf), torch.tensor(1.0), torch.tensor([1.0]))
    with pytest.raises(NonFiniteStepError, match="Step 1: loss inf; its gradients are finite"):
        ledger.read(ledger.counts)


def test_what_was_known_after_a_step_is_not_changed_by_later_ones() -> None:
    ledger = StepGuard(SkipStep(max_consecutive=9), None, CPU)
    judge(ledger, 1, BROKEN)
    then = ledger.counts
    judge(ledger, 2, BROKEN)
    assert ledger.read(then) == {"skipped_steps": 1}


@pytest.mark.gpu
def test_on_a_gpu_no_step_waits_for_the_device() -> None:
    ledger = StepGuard(SkipStep(), Float16(), torch.device("cuda"))
    loss, norms = torch.ones((), device="cuda"), torch.ones(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ledger.check(1, loss, torch.linalg.vector_norm(norms), norms)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ledger.read(ledger.counts)["skipped_steps"] == 0
