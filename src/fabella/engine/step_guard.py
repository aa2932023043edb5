"""Which steps are taken, told alike by both engines: the rules, what a checkpoint keeps of them, and the error.

The decision itself is made on the device, in ledger_torch.py and ledger_jax.py, so that no step waits for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config.training import Float16, NonFinitePolicy, SkipStep, Stop
from fabella.errors import NonFiniteStepError

SMALLEST, LARGEST = 2.0**-20, 2.0**127
"""Of a loss scale: below, it is the loss itself that is not finite; above, float32 has no room to double it again."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """How a step is judged that is not finite."""

    limit: int
    """So many of them in a row are one too many."""
    told: bool
    """Whether a row of metrics says how many were left out."""
    first_scale: float
    growth_steps: int
    """Finite steps after which the loss scale doubles; 0: the loss is not scaled."""

    @classmethod
    def of(cls, policy: NonFinitePolicy, fp16: Float16 | None) -> "GuardConfig":
        """``fp16``: where the loss is scaled (Micikevicius et al. 2018, arXiv 1710.03740)."""
        return cls(
            limit=policy.max_consecutive if isinstance(policy, SkipStep) else 1,
            told=fp16 is not None or not isinstance(policy, Stop),
            first_scale=fp16.initial_loss_scale if fp16 else 1.0,
            growth_steps=fp16.loss_scale_growth_interval if fp16 else 0,
        )

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled."""
        return self.growth_steps > 0


@dataclass(frozen=True, slots=True)
class GuardState:
    """What was counted up to a step, read from the device."""

    skipped: int = 0
    """Steps of the whole run that were left out."""
    consecutive_skips: int = 0
    """How many of them, up to now, one after the other, but for those that fp16 alone overflowed in."""
    scale: float = 1.0
    """Of the loss."""
    good: int = 0
    """Finite steps since the scale changed."""

    @classmethod
    def of(cls, rules: GuardConfig, numbers: Mapping[str, int | float]) -> "GuardState":
        """From a checkpoint; what a run did not count before begins anew."""
        return cls(
            skipped=int(numbers.get("skipped_steps", 0)),
            consecutive_skips=int(numbers.get("consecutive_skips", 0)) if rules.limit > 1 else 0,
            scale=float(numbers.get("loss_scale", rules.first_scale)) if rules.scaled else 1.0,
            good=int(numbers.get("good_steps", 0)),
        )

    def numbers(self, rules: GuardConfig) -> dict[str, int | float]:
        """For a checkpoint."""
        counted = {"skipped_steps": self.skipped, "consecutive_skips": self.consecutive_skips} if rules.told else {}
        scaled = {"loss_scale": self.scale, "good_steps": self.good} if rules.scaled else {}
        return {**counted, **scaled}

    def row(self, rules: GuardConfig) -> dict[str, float]:
        """For a row of metrics."""
        scaled = {"loss_scale": self.scale} if rules.scaled else {}
        return {**scaled, **({"skipped_steps": self.skipped} if rules.told else {})}

    def error(self, rules: GuardConfig, step: int, loss: float, culprit: str) -> NonFiniteStepError:
        """Of ``step``, the first that was one too many; ``culprit``: its first gradient that is not finite, if any."""
        where = f"the gradient of {culprit} is not finite" if culprit else "its gradients are finite"
        how_many = f", the last of {self.consecutive_skips} in a row" if rules.limit > 1 else ""
        if self.consecutive_skips < rules.limit:
            how_many = f", at a loss scale of {self.scale:.3g}"
        return NonFiniteStepError(
            f"Step {step}{how_many}: loss {loss:.4g}; {where}. The weights were left as they were.",
            hint="Resume with a lower optimizer.lr, a smaller optimizer.max_grad_norm, or training.on_nonfinite.kind=rollback.",
            step=step,
        )
