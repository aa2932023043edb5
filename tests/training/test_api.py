"""``fabella.train`` and ``fabella.resume``: what cannot be done is refused before anything else is."""

from pathlib import Path

import pytest

from fabella.errors import ConfigError
from fabella.training import api
from fabella.training.run import start_run
from tests.training import tiny


def test_a_device_that_is_not_there_is_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown device 'tpu'\. Choose from: auto,"):
        api.train("storybook-1m", device="tpu")
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_go_back_to_an_earlier_step(tmp_path: Path) -> None:
    out = start_run(tiny.run("samples.every_steps=3", steps=6), tmp_path / "run", tiny.prepared(tmp_path)).folder
    before = tiny.fingerprint(out)
    with pytest.raises(
        ConfigError, match=r"training\.length\.max_steps = 4, but .* has already taken 6 steps\. Use more than 6"
    ):
        api.resume(out, settings={"training.length.max_steps": 4})
    assert (tiny.fingerprint(out), api.resume(out).progress.step) == (before, 6)
