"""The rate that is advised is better than a third and three times of it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.cli.main import run as fabella
from fabella.errors import ConfigError
from fabella.tuning.lr_search import FACTOR, MAX_TRAININGS, find_rate, parabola_minimum, search, trained_loss
from tests.training import tiny

STEPS = 120
SETTINGS = ("model.dropout=0.0", "training.gradient_accumulation=[[0, 1]]", "data.source.stories=200")


def curve(best: float, steepness: float, fails_above: float) -> Callable[[float], float]:
    """A loss that is lowest at ``best`` and infinite above a rate."""
    return lambda rate: math.inf if rate > fails_above else 3 + steepness * math.log(rate / best) ** 2


@given(
    best=st.floats(1e-4, 0.3), start_factor=st.floats(-5, 5), steepness=st.floats(0.01, 2), margin=st.floats(4, 1000)
)
def test_the_search_finds_a_rate_that_is_better_than_a_third_and_three_times_of_it(
    best: float, start_factor: float, steepness: float, margin: float
) -> None:
    loss_at = curve(best, steepness, best * margin)
    losses = search(loss_at, best * math.exp(start_factor))
    rate = min(losses, key=losses.__getitem__)
    assert losses[rate] < loss_at(rate / 3)
    assert losses[rate] < loss_at(rate * 3)
    assert abs(math.log(rate / best)) < math.log(FACTOR) / 2 + 0.03, "within half a step, up to rounding"
    assert len(losses) <= MAX_TRAININGS + 1


@pytest.mark.parametrize("loss_at", [lambda rate: -rate, lambda rate: rate, lambda rate: math.inf])
def test_a_loss_without_a_minimum_is_refused(loss_at: Callable[[float], float]) -> None:
    with pytest.raises(ConfigError, match="The best learning rate is not between"):
        search(loss_at, 1e-3)


def test_the_minimum_of_a_parabola_is_exact() -> None:
    loss_at = curve(2e-3, 0.7, math.inf)
    points = [(rate, loss_at(rate)) for rate in (1e-3, 3e-3, 9e-3)]
    assert parabola_minimum(points) == pytest.approx(2e-3)
    assert parabola_minimum([(1e-3, 2.0), (3e-3, 1.0), (9e-3, math.inf)]) == 3e-3


@pytest.mark.slow
def test_the_advice_holds_for_trainings_with_other_seeds(tmp_path: Path) -> None:
    run = tiny.run(*SETTINGS)
    data = tiny.prepared(tmp_path, run)
    found = find_rate(run, data, steps=STEPS)
    low, high = found.interval
    assert low < found.suggested < high
    assert all(found.losses[found.suggested] < loss for rate, loss in found.losses.items() if rate != found.suggested)
    for seed in (7, 8):
        other = run.model_copy(update={"seed": seed})
        third, same, triple = (
            trained_loss(other, data, found.suggested * factor, steps=STEPS) for factor in (1 / 3, 1, 3)
        )
        assert same < min(third, triple)


def test_a_training_that_is_not_finite_has_an_infinite_loss(tmp_path: Path) -> None:
    run = tiny.run("optimizer.max_grad_norm=1e9", "optimizer.weight_decay=1000")
    assert trained_loss(run, tiny.prepared(tmp_path), 10.0, steps=12) > 10


@pytest.mark.slow
def test_the_command_prints_a_rate_and_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["tune", "storybook-1m", *tiny.SETTINGS, *SETTINGS, "--lr-find", "--steps", "30", "--device", "cpu"]
    assert fabella([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["low"] < result["lr"] < result["high"]
    assert result["losses"][result["rates"].index(result["lr"])] == min(result["losses"])
    assert Path(result["page"]).read_text().endswith("</html>\n")
