"""Tests how long the quickstart trains, and when it is finished."""

import pytest

from fabella.config.training import MaxSteps
from fabella.errors import ConfigError
from fabella.run_config.files import load_config, preset
from fabella.training.setup import quickstart
from fabella.training.setup.quickstart import MIN_STEPS, MachineSpeed, is_finished, quickstart_run


@pytest.mark.parametrize(
    ("seconds", "minutes", "steps"),
    [(0.1, 2.0, 1080), (0.15, 2.0, 720), (0.1, 10.0, 5400), (5.0, 1.0, MIN_STEPS), (1e-6, 60.0, 50_000)],
)
def test_steps_fill_nine_tenths_of_the_time_within_bounds(seconds: float, minutes: float, steps: int) -> None:
    assert MachineSpeed(seconds).steps_in(minutes) == steps


def test_the_run_is_the_preset_with_as_many_steps_as_the_machine_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "measure_speed", lambda run, device: MachineSpeed(0.15))
    run = quickstart_run(2.0)
    assert (run.name, run.model) == ("quickstart", preset("storybook-hybrid-1m").model)
    assert run.training.length == MaxSteps(max_steps=720)
    assert run.validation.every_steps == 90
    assert capsys.readouterr().err == "150 ms per step: 720 steps, about 1:48.\n"


@pytest.mark.parametrize("minutes", [0, -1, 1441, float("nan")])
def test_a_time_of_zero_is_rejected(minutes: float) -> None:
    with pytest.raises(ConfigError, match="Cannot train for --minutes"):
        quickstart_run(minutes)


@pytest.mark.parametrize(("step", "finished"), [(None, False), (599, False), (600, True)])
def test_a_run_is_finished_when_its_last_step_is_saved(step: int | None, finished: bool) -> None:
    assert is_finished(load_config("storybook-1m", ["training.length.max_steps=600"]), step) == finished
