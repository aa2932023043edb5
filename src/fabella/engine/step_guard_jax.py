"""Which steps are taken: decided, counted and remembered within the compiled step; the rules are in ledger.py."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax import numpy as jnp

from fabella.engine.step_guard import LARGEST, SMALLEST, GuardConfig, GuardState


class GuardTensors(NamedTuple):
    """What is known after a step, each []; see ``Known``."""

    skipped: Array
    consecutive_skips: Array
    scale: Array
    good: Array
    failed: Array
    """The first step, counted from 1, that was one too many; 0: none was. From it on no step is taken."""
    loss: Array
    """Of that step."""
    culprit: Array
    """Number of the first gradient of that step that is not finite; -1: each is."""

    @classmethod
    def of(cls, rules: GuardConfig, numbers: Mapping[str, int | float]) -> "GuardTensors":
        """What a checkpoint kept, on no device yet."""
        known = GuardState.of(rules, numbers)
        whole, part = (partial(np.asarray, dtype=kind) for kind in (np.int32, np.float32))
        values: dict[str, Any] = {
            "skipped": whole(known.skipped), "consecutive_skips": whole(known.consecutive_skips), "scale": part(known.scale),
            "good": whole(known.good), "failed": whole(0), "loss": part(0.0), "culprit": whole(-1),
        }  # fmt: skip
        return cls(**values)

    def known(self) -> GuardState:
        """Waits for the device."""
        return GuardState(int(self.skipped), int(self.consecutive_skips), float(self.scale), int(self.good))

    def read(self, rules: GuardConfig, names: tuple[str, ...]) -> dict[str, float]:
        """What a row of metrics tells of them. Waits for the device. Raises NotFinite for a step too many.

        ``names``: of the gradients, in the order that ``judge`` was given them.
        """
        if failed := int(self.failed):
            culprit = names[int(self.culprit)] if int(self.culprit) >= 0 else ""
            raise self.known().error(rules, failed, float(self.loss), culprit)
        return self.known().row(rules)


def check(
    rules: GuardConfig, before: GuardTensors, step: Array, measured: tuple[Array, Array], squares: Array
) -> tuple[GuardTensors, Array]:
    """The counts after ``step`` [], and whether it is taken [].

    ``measured``: its loss [] and its gradients' norm []; ``squares``: the sum of those of each gradient [N].
    """
    loss, norm = measured
    going_on = before.failed == 0
    sound = jnp.isfinite(loss)
    finite = sound & jnp.isfinite(norm)
    # An overflow of scaled gradients is what the scale is there for, and no failure.
    bad = ~sound if rules.scaled else ~finite
    consecutive_skips = jnp.where(finite, 0, before.consecutive_skips + bad)
    scale, good = before.scale, before.good
    failing = consecutive_skips >= rules.limit
    if rules.scaled:
        scale, good = _rescaled(rules, before, finite, overflowed=sound & ~finite)
        failing = failing | (scale < SMALLEST)
    wrong = ~jnp.isfinite(squares)
    after = GuardTensors(
        skipped=before.skipped + ~finite,
        consecutive_skips=consecutive_skips,
        scale=scale,
        good=good,
        failed=jnp.where(failing, step, 0),
        loss=loss,
        culprit=jnp.where(wrong.any(), wrong.argmax(), -1).astype(jnp.int32),
    )
    kept = (jnp.where(going_on, new, old) for new, old in zip(after, before, strict=True))
    return GuardTensors(*kept), finite & going_on


def _rescaled(rules: GuardConfig, before: GuardTensors, finite: Array, *, overflowed: Array) -> tuple[Array, Array]:
    """The loss scale and the good steps since it changed: halved at an overflow, doubled after enough of them."""
    good = before.good + finite
    grown = good >= rules.growth_steps
    scale = jnp.where(overflowed, before.scale / 2, before.scale)
    scale = jnp.where(grown, jnp.minimum(before.scale * 2, LARGEST), scale)
    return scale, jnp.where(overflowed | grown, 0, good)
