"""Tests which trackers a config enables, and the error for a missing package."""

import sys
from pathlib import Path

import pytest

import fabella.tracking
from fabella.config.tracking import TrackingConfig, WeightsAndBiases
from fabella.errors import ConfigError
from fabella.tracking import factory
from fabella.tracking.factory import open_trackers, require_packages
from tests.runs import stub

FORGOTTEN = ("tensorboard", "wandb", "torch.utils.tensorboard", "fabella.tracking.tensorboard_torch")
"""Modules that are imported again, from a path without third-party packages."""


def fail_on_report(text: str) -> None:
    raise AssertionError(f"unexpected report: {text}")


def test_no_tracker_is_enabled_by_default(tmp_path: Path) -> None:
    require_packages(TrackingConfig())
    assert open_trackers(stub.folder(tmp_path / "run"), step=0, report=fail_on_report) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TrackingConfig(tensorboard=True),
            r"Cannot use tracking.tensorboard=true: Python has no module 'tensorboard'\.",
        ),
        (
            TrackingConfig(wandb=WeightsAndBiases(mode="offline")),
            r"Cannot use tracking.wandb.mode=offline: Python has no module 'wandb'\.",
        ),
    ],
)
def test_a_missing_package_is_an_error_before_the_run_begins(
    config: TrackingConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(FORGOTTEN)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "packages" not in path])
    with pytest.raises(ConfigError, match=message) as caught:
        require_packages(config)
    assert caught.value.hint == "Install it with pip install 'fabella[track]', or remove the setting."


def test_a_tracker_is_found_by_the_name_of_its_config_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sketched(TrackingConfig):
        sketchbook: bool = True

    (tmp_path / "sketchbook.py").write_text("PACKAGE = 'json'")
    monkeypatch.setattr(fabella.tracking, "__path__", [*fabella.tracking.__path__, str(tmp_path)])
    assert list(factory._enabled(Sketched())) == [("tracking.sketchbook=true", "fabella.tracking.sketchbook")]  # pyright: ignore[reportPrivateUsage]
    require_packages(Sketched())
