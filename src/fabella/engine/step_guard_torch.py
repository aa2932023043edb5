"""Which steps are taken: decided, counted and remembered on the device, so that no step waits to know it is finite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fabella.config.training import Float16, NonFinitePolicy
from fabella.engine.step_guard import LARGEST, SMALLEST, GuardConfig, GuardState


@dataclass(frozen=True, slots=True)
class GuardTensors:
    """What is known after a step, each a tensor [] that later steps leave as it is."""

    skipped: Tensor
    """Steps of the whole run that were left out."""
    consecutive_skips: Tensor
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


class StepGuard:
    """Judges each step by its loss and its gradients.

    What is not finite never reaches weights or moments. Once there has been too much of it, as the config's
    ``training.on_nonfinite`` says, no later step is taken either: when somebody looks, some steps later on a GPU, weights
    and moments are those before the step that failed.
    """

    def __init__(self, policy: NonFinitePolicy, fp16: Float16 | None, device: torch.device) -> None:
        """``fp16``: where the loss is scaled."""
        self.rules, self.device = GuardConfig.of(policy, fp16), device
        self.names: Sequence[str] = ()
        self.counts = self._of({})

    def numbers(self) -> dict[str, int | float]:
        """For a checkpoint."""
        return self._known(self.counts).numbers(self.rules)

    def _known(self, counts: GuardTensors) -> GuardState:
        return GuardState(int(counts.skipped), int(counts.consecutive_skips), float(counts.scale), int(counts.good))

    def restore(self, numbers: Mapping[str, int | float]) -> None:
        """Take over what ``numbers()`` gave; what a run did not count before begins anew."""
        self.counts = self._of(numbers)

    def _of(self, numbers: Mapping[str, int | float]) -> GuardTensors:
        known = GuardState.of(self.rules, numbers)

        def count(value: int) -> Tensor:
            return torch.tensor(value, device=self.device)

        return GuardTensors(
            skipped=count(known.skipped),
            consecutive_skips=count(known.consecutive_skips),
            scale=torch.tensor(known.scale, dtype=torch.float32, device=self.device),
            good=count(known.good),
            failed=count(0),
            loss=torch.zeros((), device=self.device),
            culprit=count(-1),
        )

    def check(self, step: int, loss: Tensor, norm: Tensor, norms: Tensor) -> Tensor:
        """Whether ``step`` is to be taken ([], bool), from its loss [], its gradients' norm [] and that of each [N]."""
        before = self.counts
        going_on = before.failed == 0
        sound = torch.isfinite(loss)
        finite = sound & torch.isfinite(norm)
        # An overflow of scaled gradients is what the scale is there for, and no failure.
        bad = ~sound if self.rules.scaled else ~finite
        after = replace(
            before,
            skipped=before.skipped + ~finite,
            consecutive_skips=torch.where(finite, 0, before.consecutive_skips + bad),
        )
        failing = after.consecutive_skips >= self.rules.limit
        if self.rules.scaled:
            after = self._rescaled(after, finite, self.rules.growth_steps, overflowed=sound & ~finite)
            failing = failing | (after.scale < SMALLEST)
        wrong = ~torch.isfinite(norms)
        after = replace(
            after,
            failed=torch.where(failing, step, 0),
            loss=loss,
            culprit=torch.where(wrong.any(), wrong.int().argmax(), -1),
        )
        self.counts = GuardTensors(*(
            torch.where(going_on, new, old) for new, old in zip(_tensors(after), _tensors(before), strict=True)
        ))  # fmt: skip
        return finite & going_on

    def _rescaled(self, counts: GuardTensors, finite: Tensor, growth_steps: int, *, overflowed: Tensor) -> GuardTensors:
        good = counts.good + finite
        grown = good >= growth_steps
        scale = torch.where(overflowed, counts.scale / 2, counts.scale)
        scale = torch.where(grown, (counts.scale * 2).clamp(max=LARGEST), scale)
        return replace(counts, scale=scale, good=torch.where(overflowed | grown, 0, good))

    def read(self, counts: GuardTensors) -> dict[str, float]:
        """What a row of metrics tells of them. Waits for the device. Raises NotFinite for a step too many."""
        skipped, consecutive_skips, failed, culprit = torch.stack(
            [counts.skipped, counts.consecutive_skips, counts.failed, counts.culprit]
        ).tolist()
        known = GuardState(skipped, consecutive_skips, float(counts.scale) if self.rules.scaled else 1.0, good=0)
        if failed:
            raise known.error(self.rules, failed, float(counts.loss), self.names[int(culprit)] if culprit >= 0 else "")
        return known.row(self.rules)


def _tensors(counts: GuardTensors) -> list[Tensor]:
    return [
        counts.skipped,
        counts.consecutive_skips,
        counts.scale,
        counts.good,
        counts.failed,
        counts.loss,
        counts.culprit,
    ]
