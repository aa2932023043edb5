"""The dynamic loss scale of fp16 training (Micikevicius et al. 2018, arXiv 1710.03740)."""

from dataclasses import dataclass

from fabella.config import Float16
from fabella.errors import NumericsError


@dataclass(slots=True)
class LossScale:
    """``value`` multiplies the loss. It doubles after ``growth_steps`` finite steps and halves on a bad one."""

    value: float
    growth_steps: int
    good_steps: int = 0

    @classmethod
    def of(cls, precision: Float16) -> "LossScale":
        """The scale that a training begins with."""
        return cls(precision.initial_scale, precision.growth_steps)

    def update(self, finite: bool) -> None:
        """Take note of a step. Raises NumericsError where halving has led nowhere: the loss itself is not finite."""
        if not finite:
            self.value, self.good_steps = self.value / 2, 0
            if self.value < 2.0**-20:
                raise NumericsError("The loss is not finite at any loss scale.", fix="Lower optimizer.lr, or use bf16.")
        elif self.good_steps + 1 == self.growth_steps:
            self.value, self.good_steps = self.value * 2, 0
        else:
            self.good_steps += 1
