"""Step guard for JAX: decides and counts inside the compiled step; config and counters are those of step_guard.py."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax import Array
from jax import numpy as jnp

from fabella.engine.step_guard import MAX_LOSS_SCALE, MIN_LOSS_SCALE, GuardConfig, GuardState


class GuardTensors(NamedTuple):
    """Counters after a step, each []. See GuardState."""

    skipped_steps: Array
    consecutive_skips: Array
    loss_scale: Array
    good_steps: Array
    failed_step: Array
    """First step, counted from 1, at which training failed; 0: none. No later step is applied."""
    failed_loss: Array
    """Loss of that step."""
    failed_parameter: Array
    """Index of the first non-finite gradient of that step; -1 if all are finite."""

    @classmethod
    def from_scalars(cls, config: GuardConfig, scalars: Mapping[str, int | float]) -> "GuardTensors":
        """Return the counters of a checkpoint as numpy arrays, not yet on a device."""
        state = GuardState.from_scalars(config, scalars)
        values: dict[str, np.ndarray] = {
            "skipped_steps": np.asarray(state.skipped_steps, np.int32),
            "consecutive_skips": np.asarray(state.consecutive_skips, np.int32),
            "loss_scale": np.asarray(state.loss_scale, np.float32),
            "good_steps": np.asarray(state.good_steps, np.int32),
            "failed_step": np.asarray(0, np.int32),
            "failed_loss": np.asarray(0.0, np.float32),
            "failed_parameter": np.asarray(-1, np.int32),
        }
        return cls(**values)  # pyright: ignore[reportArgumentType] - the engine puts them onto the device

    def state(self) -> GuardState:
        """Return the counters. Waits for the device."""
        return GuardState(
            int(self.skipped_steps), int(self.consecutive_skips), float(self.loss_scale), int(self.good_steps)
        )

    def read(self, config: GuardConfig, names: tuple[str, ...]) -> dict[str, float]:
        """Return the counters for a row of metrics. Waits for the device. Raises NonFiniteStepError after a failure.

        ``names``: of the gradients, in the order of ``squares`` in ``check``.
        """
        if failed := int(self.failed_step):
            parameter = names[int(self.failed_parameter)] if int(self.failed_parameter) >= 0 else ""
            raise self.state().error(config, failed, float(self.failed_loss), parameter)
        return self.state().metrics(config)


def check(
    config: GuardConfig, before: GuardTensors, step: Array, loss_and_norm: tuple[Array, Array], squares: Array
) -> tuple[GuardTensors, Array]:
    """Return the counters after ``step`` [], and whether to apply it [].

    ``loss_and_norm``: loss [] and global gradient norm []; ``squares`` [N]: squared norm of each gradient.
    """
    loss, norm = loss_and_norm
    running = before.failed_step == 0
    finite_loss = jnp.isfinite(loss)
    finite = finite_loss & jnp.isfinite(norm)
    # With loss scaling, overflowing gradients are expected: they lower the scale and are no failure.
    bad = ~finite_loss if config.scales_loss else ~finite
    consecutive_skips = jnp.where(finite, 0, before.consecutive_skips + bad)
    scale, good = before.loss_scale, before.good_steps
    failing = consecutive_skips >= config.max_consecutive
    if config.scales_loss:
        scale, good = _rescaled(config, before, finite, overflowed=finite_loss & ~finite)
        failing = failing | (scale < MIN_LOSS_SCALE)
    nonfinite = ~jnp.isfinite(squares)
    after = GuardTensors(
        skipped_steps=before.skipped_steps + ~finite,
        consecutive_skips=consecutive_skips,
        loss_scale=scale,
        good_steps=good,
        failed_step=jnp.where(failing, step, 0),
        failed_loss=loss,
        failed_parameter=jnp.where(nonfinite.any(), nonfinite.argmax(), -1).astype(jnp.int32),
    )
    chosen = (jnp.where(running, new, old) for new, old in zip(after, before, strict=True))
    return GuardTensors(*chosen), finite & running


def _rescaled(config: GuardConfig, before: GuardTensors, finite: Array, *, overflowed: Array) -> tuple[Array, Array]:
    """Halve the loss scale at an overflow, double it after ``growth_interval`` finite steps. Return scale and count."""
    good = before.good_steps + finite
    grown = good >= config.growth_interval
    scale = jnp.where(overflowed, before.loss_scale / 2, before.loss_scale)
    scale = jnp.where(grown, jnp.minimum(before.loss_scale * 2, MAX_LOSS_SCALE), scale)
    return scale, jnp.where(overflowed | grown, 0, good)
