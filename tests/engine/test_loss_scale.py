"""The dynamic loss scale of fp16."""

import pytest

from fabella.config import Float16
from fabella.engine.loss_scale import LossScale
from fabella.errors import NumericsError


def test_the_scale_doubles_after_the_growth_period_and_halves_on_a_bad_step() -> None:
    scale = LossScale.of(Float16(initial_scale=256.0, growth_steps=3))
    values = []
    for finite in (True, True, True, True, False, True, True, True):
        scale.update(finite)
        values.append(scale.value)
    assert values == [256, 256, 512, 512, 256, 256, 256, 512]


def test_a_loss_that_is_never_finite_ends_the_training() -> None:
    scale = LossScale.of(Float16(initial_scale=1.0))
    for _ in range(20):
        scale.update(finite=False)
    with pytest.raises(NumericsError, match="not finite at any loss scale"):
        scale.update(finite=False)
