"""The range test raises the rate up to the divergence and finds where the loss falls fastest."""

from pathlib import Path

import pytest

from fabella.tuning.lr_range_test import RateTest, lr_range_test
from tests.training import tiny


def test_the_range_test_finds_a_rate_below_the_divergence(tmp_path: Path) -> None:
    data = tiny.prepared(tmp_path)
    result = lr_range_test(tiny.run("model.dropout=0.0"), data, steps=60)
    assert result.rates[0] == pytest.approx(1e-6)
    assert 1e-5 < result.steepest < result.lowest
    assert min(result.losses) < result.losses[0]
    assert result == lr_range_test(tiny.run("model.dropout=0.0"), data, steps=60)


def test_the_steepest_descent_is_before_the_lowest_loss() -> None:
    result = RateTest((1e-4, 1e-3, 1e-2, 1e-1, 1.0), (5.0, 4.8, 3.0, 2.9, 6.0))
    assert (result.steepest, result.lowest) == (1e-3, 1e-1)
    assert RateTest((1e-4, 1e-3), (3.0, 4.0)).steepest == 1e-4
