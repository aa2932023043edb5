"""The dynamic loss scale of fp16 training (Micikevicius et al. 2018, arXiv 1710.03740)."""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config import Float16
from fabella.errors import NumericsError


@dataclass(slots=True)
class LossScale:
    """``value`` multiplies the loss. It doubles after ``growth_steps`` finite steps and halves on a bad one."""

    value: float
    growth_steps: int
    good_steps: int = 0
    skipped: int = 0
    """Steps of the whole run that were not taken, because a gradient overflowed."""

    @classmethod
    def of(cls, precision: Float16) -> "LossScale":
        """The scale that a training begins with."""
        return cls(precision.initial_scale, precision.growth_steps)

    def numbers(self) -> dict[str, int | float]:
        """For a checkpoint."""
        return {"loss_scale": self.value, "good_steps": self.good_steps, "skipped_steps": self.skipped}

    def restore(self, numbers: Mapping[str, int | float]) -> None:
        """Take over what ``numbers()`` gave; a run that had no scale before begins with a new one."""
        self.value = float(numbers.get("loss_scale", self.value))
        self.good_steps = int(numbers.get("good_steps", 0))
        self.skipped = int(numbers.get("skipped_steps", 0))

    def update(self, finite: bool) -> None:
        """Take note of a step. Raises NumericsError where halving has led nowhere: the loss itself is not finite."""
        if not finite:
            self.value, self.good_steps = self.value / 2, 0
            self.skipped += 1
            if self.value < 2.0**-20:
                raise NumericsError("The loss is not finite at any loss scale.", fix="Lower optimizer.lr, or use bf16.")
        elif self.good_steps + 1 == self.growth_steps:
            self.value, self.good_steps = self.value * 2, 0
        else:
            self.good_steps += 1
