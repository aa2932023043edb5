"""Which services a run asks for, and what is said where their package is missing."""

import sys
from pathlib import Path

import pytest

from fabella.config.tracking import TrackingConfig, WeightsAndBiases
from fabella.errors import ConfigError
from fabella.tracking.factory import require, services
from tests.runs import stub


def unheard(text: str) -> None:
    raise AssertionError(f"nothing was to be reported: {text}")


def test_usually_nobody_is_told(tmp_path: Path) -> None:
    require(TrackingConfig())
    assert services(stub.folder(tmp_path / "run"), step=0, report=unheard) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            TrackingConfig(tensorboard=True),
            r"tracking.tensorboard=true cannot be used: Python has no module 'tensorboard'\.",
        ),
        (
            TrackingConfig(wandb=WeightsAndBiases(mode="offline")),
            r"tracking.wandb.mode=offline cannot be used: Python has no module 'wandb'\.",
        ),
    ],
)
def test_a_missing_package_is_said_before_the_run_begins(
    asked: TrackingConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in {"tensorboard", "wandb"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "packages" not in place])
    with pytest.raises(ConfigError, match=message) as caught:
        require(asked)
    assert caught.value.hint == "Install it (pip install 'fabella[track]'), or leave the setting out."
