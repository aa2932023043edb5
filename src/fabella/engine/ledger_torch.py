"""Which steps are taken: decided, counted and remembered on the device, so that no step waits to know it is finite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fabella.config import Float16, Stop
from fabella.config_numbers import NonFinite, Skip
from fabella.errors import NotFinite

SMALLEST, LARGEST = 2.0**-20, 2.0**127
"""Of a loss scale: below, it is the loss itself that is not finite; above, float32 has no room to double it again."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What is known after a step, each a tensor [] that later steps leave as it is."""

    skipped: Tensor
    """Steps of the whole run that were left out."""
    in_a_row: Tensor
    """How many of them, up to now, one after the other, but for those that fp16 alone overflowed in."""
    scale: Tensor
    """Of the loss, with fp16 (Micikevicius et al. 2018, arXiv 1710.03740): halved where a gradient overflows."""
    good: Tensor
    """Finite steps since the scale changed."""
    failed: Tensor
    """The first step, counted from 1, that was one too many; 0: none was. From it on no step is taken."""
    loss: Tensor
    """Of that step."""
    culprit: Tensor
    """Number of the first gradient of that step that is not finite; -1: each is."""


class Ledger:
    """Judges each step by its loss and its gradients.

    What is not finite never reaches weights or moments. Once there has been too much of it, as the config's
    ``training.nonfinite`` says, no later step is taken either: when somebody looks, some steps later on a GPU, weights
    and moments are those before the step that failed.
    """

    def __init__(self, policy: NonFinite, fp16: Float16 | None, device: torch.device) -> None:
        """``fp16``: where the loss is scaled."""
        self.fp16, self.limit = fp16, policy.in_a_row if isinstance(policy, Skip) else 1
        self.told = fp16 is not None or not isinstance(policy, Stop)
        self.device = device
        self.names: Sequence[str] = ()
        self.counts = self._of({})

    def numbers(self) -> dict[str, int | float]:
        """For a checkpoint."""
        now = self.counts
        counted = {"skipped_steps": int(now.skipped), "skipped_in_a_row": int(now.in_a_row)} if self.told else {}
        scaled = {"loss_scale": float(now.scale), "good_steps": int(now.good)} if self.fp16 else {}
        return {**counted, **scaled}

    def restore(self, numbers: Mapping[str, int | float]) -> None:
        """Take over what ``numbers()`` gave; what a run did not count before begins anew."""
        self.counts = self._of(numbers)

    def _of(self, numbers: Mapping[str, int | float]) -> Counts:
        first = self.fp16.initial_scale if self.fp16 else 1.0

        def count(value: float) -> Tensor:
            return torch.tensor(int(value), device=self.device)

        return Counts(
            skipped=count(numbers.get("skipped_steps", 0)),
            in_a_row=count(numbers.get("skipped_in_a_row", 0) if self.limit > 1 else 0),
            scale=torch.tensor(float(numbers.get("loss_scale", first)), dtype=torch.float32, device=self.device),
            good=count(numbers.get("good_steps", 0)),
            failed=count(0),
            loss=torch.zeros((), device=self.device),
            culprit=count(-1),
        )

    def judge(self, step: int, loss: Tensor, norm: Tensor, norms: Tensor) -> Tensor:
        """Whether ``step`` is to be taken ([], bool), from its loss [], its gradients' norm [] and that of each [N]."""
        before = self.counts
        going_on = before.failed == 0
        sound = torch.isfinite(loss)
        finite = sound & torch.isfinite(norm)
        # An overflow of scaled gradients is what the scale is there for, and no failure.
        bad = ~sound if self.fp16 else ~finite
        after = replace(
            before,
            skipped=before.skipped + ~finite,
            in_a_row=torch.where(finite, 0, before.in_a_row + bad),
        )
        failing = after.in_a_row >= self.limit
        if self.fp16:
            after = self._rescaled(after, finite, self.fp16.growth_steps, overflowed=sound & ~finite)
            failing = failing | (after.scale < SMALLEST)
        wrong = ~torch.isfinite(norms)
        after = replace(
            after,
            failed=torch.where(failing, step, 0),
            loss=loss,
            culprit=torch.where(wrong.any(), wrong.int().argmax(), -1),
        )
        self.counts = Counts(*(
            torch.where(going_on, new, old) for new, old in zip(_tensors(after), _tensors(before), strict=True)
        ))  # fmt: skip
        return finite & going_on

    def _rescaled(self, counts: Counts, finite: Tensor, growth_steps: int, *, overflowed: Tensor) -> Counts:
        good = counts.good + finite
        grown = good >= growth_steps
        scale = torch.where(overflowed, counts.scale / 2, counts.scale)
        scale = torch.where(grown, (counts.scale * 2).clamp(max=LARGEST), scale)
        return replace(counts, scale=scale, good=torch.where(overflowed | grown, 0, good))

    def read(self, counts: Counts) -> dict[str, float]:
        """What a row of metrics tells of them. Waits for the device. Raises NotFinite for a step too many."""
        skipped, in_a_row, failed, culprit = torch.stack(
            [counts.skipped, counts.in_a_row, counts.failed, counts.culprit]
        ).tolist()
        if failed:
            raise self._error(counts, failed, in_a_row, culprit)
        scaled = {"loss_scale": float(counts.scale)} if self.fp16 else {}
        return {**scaled, **({"skipped_steps": skipped} if self.told else {})}

    def _error(self, counts: Counts, step: int, in_a_row: int, culprit: int) -> NotFinite:
        where = f"the gradient of {self.names[culprit]} is not finite" if culprit >= 0 else "its gradients are finite"
        how_many = f", the last of {in_a_row} in a row" if self.limit > 1 else ""
        if in_a_row < self.limit:
            how_many = f", at a loss scale of {float(counts.scale):.3g}"
        return NotFinite(
            f"Step {step}{how_many}: loss {float(counts.loss):.4g}; {where}. The weights were left as they were.",
            fix="Resume with a lower optimizer.lr, a smaller optimizer.clip, or training.nonfinite.kind=rewind.",
            step=step,
        )


def _tensors(counts: Counts) -> list[Tensor]:
    return [counts.skipped, counts.in_a_row, counts.scale, counts.good, counts.failed, counts.loss, counts.culprit]
