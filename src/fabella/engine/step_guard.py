"""The step guard of both engines: its config, its counters in a checkpoint, and the error it raises.

The decision to apply or skip a step is made on the device, in step_guard_torch.py and step_guard_jax.py, so that no
step waits for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fabella.config.training import Float16, NonFinitePolicy, PrecisionConfig, SkipStep, Stop
from fabella.errors import NonFiniteStepError

MIN_LOSS_SCALE, MAX_LOSS_SCALE = 2.0**-20, 2.0**127
"""Below the minimum, the loss itself must be non-finite. The maximum is the largest power of two in float32."""


def loss_scaling(requested: PrecisionConfig, *, scaled: bool) -> Float16 | None:
    """Return the settings of loss scaling: those of the config, or the defaults; None if the loss is not scaled."""
    if not scaled:
        return None
    return requested if isinstance(requested, Float16) else Float16()


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """Policy for non-finite steps, and for the loss scale of fp16."""

    max_consecutive: int
    """Consecutive non-finite steps after which training fails; at least 1."""
    reports_skips: bool
    """Whether metrics and checkpoints have the number of skipped steps."""
    initial_loss_scale: float
    growth_interval: int
    """Finite steps after which the loss scale doubles; 0 disables loss scaling."""

    @classmethod
    def create(cls, policy: NonFinitePolicy, fp16: Float16 | None) -> "GuardConfig":
        """``fp16``: settings of loss scaling (Micikevicius et al. 2018, arXiv 1710.03740); None disables it."""
        return cls(
            max_consecutive=policy.max_consecutive if isinstance(policy, SkipStep) else 1,
            reports_skips=fp16 is not None or not isinstance(policy, Stop),
            initial_loss_scale=fp16.initial_loss_scale if fp16 else 1.0,
            growth_interval=fp16.loss_scale_growth_interval if fp16 else 0,
        )

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled."""
        return self.growth_interval > 0


@dataclass(frozen=True, slots=True)
class GuardState:
    """Counters of the step guard, read from the device."""

    skipped_steps: int = 0
    """Steps of the whole run that were skipped."""
    consecutive_skips: int = 0
    """Skipped steps since the last applied one; overflows that fp16 alone caused do not count."""
    loss_scale: float = 1.0
    good_steps: int = 0
    """Finite steps since the loss scale changed."""

    @classmethod
    def from_scalars(cls, config: GuardConfig, scalars: Mapping[str, int | float]) -> "GuardState":
        """Read the counters from a checkpoint's scalars; missing ones start at their initial value."""
        return cls(
            skipped_steps=int(scalars.get("skipped_steps", 0)),
            consecutive_skips=int(scalars.get("consecutive_skips", 0)) if config.max_consecutive > 1 else 0,
            loss_scale=float(scalars.get("loss_scale", config.initial_loss_scale)) if config.scales_loss else 1.0,
            good_steps=int(scalars.get("good_steps", 0)),
        )

    def scalars(self, config: GuardConfig) -> dict[str, int | float]:
        """Return the counters for a checkpoint."""
        skips = {"skipped_steps": self.skipped_steps, "consecutive_skips": self.consecutive_skips}
        scaling = {"loss_scale": self.loss_scale, "good_steps": self.good_steps}
        return {**(skips if config.reports_skips else {}), **(scaling if config.scales_loss else {})}

    def metrics(self, config: GuardConfig) -> dict[str, float]:
        """Return the counters for a row of metrics."""
        scaling = {"loss_scale": self.loss_scale} if config.scales_loss else {}
        return {**scaling, **({"skipped_steps": self.skipped_steps} if config.reports_skips else {})}

    def error(self, config: GuardConfig, step: int, loss: float, parameter: str) -> NonFiniteStepError:
        """Return the error of the failed ``step``; ``parameter``: the first with a non-finite gradient, or empty."""
        cause = f"the gradient of {parameter} is not finite" if parameter else "all gradients are finite"
        detail = f", the last of {self.consecutive_skips} in a row" if config.max_consecutive > 1 else ""
        if self.consecutive_skips < config.max_consecutive:
            detail = f", at a loss scale of {self.loss_scale:.3g}"
        return NonFiniteStepError(
            f"Step {step}{detail}: loss {loss:.4g}; {cause}. The weights did not change.",
            hint="Resume with a lower optimizer.lr, a smaller optimizer.max_grad_norm, "
            "or training.on_nonfinite.kind=rollback.",
            step=step,
        )
