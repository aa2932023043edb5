"""Step guard for PyTorch: decides and counts on the device, so that no step waits to know whether it is finite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fabella.config.training import Float16, NonFinitePolicy, TrainingConfig
from fabella.engine.step_guard import MAX_LOSS_SCALE, MIN_LOSS_SCALE, GuardConfig, GuardState, loss_scaling


@dataclass(frozen=True, slots=True)
class GuardTensors:
    """Counters after a step, each a tensor [] that later steps do not change. See GuardState."""

    skipped_steps: Tensor
    consecutive_skips: Tensor
    loss_scale: Tensor
    good_steps: Tensor
    failed_step: Tensor
    """First step, counted from 1, at which training failed; 0: none. No later step is applied."""
    failed_loss: Tensor
    """Loss of that step."""
    failed_parameter: Tensor
    """Index of the first non-finite gradient of that step; -1 if all are finite."""


class StepGuard:
    """Skips non-finite steps and adapts the loss scale.

    Non-finite values never reach weights or optimizer state. After a failure, as ``training.on_nonfinite`` defines it,
    no later step is applied. On a GPU the failure is read some steps later; weights and optimizer state are then still
    those before the failed step.
    """

    @classmethod
    def create(cls, training: TrainingConfig, device: torch.device, *, scaled: bool) -> "StepGuard":
        """Return the guard of a training. ``scaled``: whether the loss is scaled."""
        return cls(training.on_nonfinite, loss_scaling(training.precision, scaled=scaled), device)

    def __init__(self, policy: NonFinitePolicy, fp16: Float16 | None, device: torch.device) -> None:
        """``fp16``: settings of loss scaling; None disables it."""
        self.config, self.device = GuardConfig.create(policy, fp16), device
        self.names: Sequence[str] = ()
        """Names of the gradients, in the order of ``norms`` in ``check``."""
        self.tensors = self._from_scalars({})

    def scalars(self) -> dict[str, int | float]:
        """Return the counters for a checkpoint. Waits for the device."""
        return self._state(self.tensors).scalars(self.config)

    def restore(self, scalars: Mapping[str, int | float]) -> None:
        """Load counters that ``scalars()`` returned; missing ones start at their initial value."""
        self.tensors = self._from_scalars(scalars)

    def _state(self, tensors: GuardTensors) -> GuardState:
        return GuardState(
            int(tensors.skipped_steps),
            int(tensors.consecutive_skips),
            float(tensors.loss_scale),
            int(tensors.good_steps),
        )

    def _from_scalars(self, scalars: Mapping[str, int | float]) -> GuardTensors:
        state = GuardState.from_scalars(self.config, scalars)

        def count(value: int) -> Tensor:
            return torch.tensor(value, device=self.device)

        return GuardTensors(
            skipped_steps=count(state.skipped_steps),
            consecutive_skips=count(state.consecutive_skips),
            loss_scale=torch.tensor(state.loss_scale, dtype=torch.float32, device=self.device),
            good_steps=count(state.good_steps),
            failed_step=count(0),
            failed_loss=torch.zeros((), device=self.device),
            failed_parameter=count(-1),
        )

    def check(self, step: int, loss: Tensor, norm: Tensor, norms: Tensor) -> Tensor:
        """Count ``step`` and return whether to apply it ([], bool).

        ``loss`` []; ``norm`` []: global gradient norm; ``norms`` [N]: norm of each gradient.
        """
        before = self.tensors
        running = before.failed_step == 0
        finite_loss = torch.isfinite(loss)
        finite = finite_loss & torch.isfinite(norm)
        # With loss scaling, overflowing gradients are expected: they lower the scale and are no failure.
        bad = ~finite_loss if self.config.scales_loss else ~finite
        after = replace(
            before,
            skipped_steps=before.skipped_steps + ~finite,
            consecutive_skips=torch.where(finite, 0, before.consecutive_skips + bad),
        )
        failing = after.consecutive_skips >= self.config.max_consecutive
        if self.config.scales_loss:
            after = self._rescaled(after, finite, overflowed=finite_loss & ~finite)
            failing = failing | (after.loss_scale < MIN_LOSS_SCALE)
        nonfinite = ~torch.isfinite(norms)
        after = replace(
            after,
            failed_step=torch.where(failing, step, 0),
            failed_loss=loss,
            failed_parameter=torch.where(nonfinite.any(), nonfinite.int().argmax(), -1),
        )
        self.tensors = GuardTensors(**{
            field.name: torch.where(running, getattr(after, field.name), getattr(before, field.name))
            for field in fields(GuardTensors)
        })  # fmt: skip
        return finite & running

    def _rescaled(self, tensors: GuardTensors, finite: Tensor, *, overflowed: Tensor) -> GuardTensors:
        """Halve the loss scale at an overflow, double it after ``growth_interval`` finite steps."""
        good = tensors.good_steps + finite
        grown = good >= self.config.growth_interval
        scale = torch.where(overflowed, tensors.loss_scale / 2, tensors.loss_scale)
        scale = torch.where(grown, (tensors.loss_scale * 2).clamp(max=MAX_LOSS_SCALE), scale)
        return replace(tensors, loss_scale=scale, good_steps=torch.where(overflowed | grown, 0, good))

    def read(self, tensors: GuardTensors) -> dict[str, float]:
        """Return the counters for a row of metrics. Waits for the device. Raises NonFiniteStepError after a failure."""
        # One copy from the device for all integers.
        skipped, consecutive, failed, parameter = torch.stack(
            [tensors.skipped_steps, tensors.consecutive_skips, tensors.failed_step, tensors.failed_parameter]
        ).tolist()
        scale = float(tensors.loss_scale) if self.config.scales_loss else 1.0
        state = GuardState(skipped, consecutive, scale)
        if failed:
            name = self.names[int(parameter)] if parameter >= 0 else ""
            raise state.error(self.config, failed, float(tensors.failed_loss), name)
        return state.metrics(self.config)
