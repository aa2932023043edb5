"""The services that a run's config asks for, each on a thread of its own."""

import importlib
from collections.abc import Callable
from functools import partial

from fabella.config.tracking import TrackingConfig
from fabella.errors import ConfigError
from fabella.runs.run_dir import RunDir
from fabella.tracking.async_tracker import AsyncTracker, RemoteTracker, Report
from fabella.tracking.tensorboard import TensorBoardTracker
from fabella.tracking.wandb import WandbTracker


def require(telemetry: TrackingConfig) -> None:
    """Raises ConfigError where a service is asked for whose package is not installed: before a run begins."""
    if telemetry.tensorboard:
        _require_package("tracking.tensorboard=true", "tensorboard.summary")
    if telemetry.wandb.mode != "disabled":
        _require_package(f"tracking.wandb.mode={telemetry.wandb.mode}", "wandb")


def _require_package(setting: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"{setting} cannot be used: Python has no module '{missing.name}'.",
            hint="Install it (pip install 'fabella[track]'), or leave the setting out.",
        ) from None


def services(folder: RunDir, *, step: int, report: Report) -> list[AsyncTracker]:
    """The services of the run in ``folder``, which goes on from ``step``; close each of them at the end."""
    telemetry = folder.run.tracking
    asked: dict[str, Callable[[], RemoteTracker]] = {}
    if telemetry.tensorboard:
        asked["TensorBoard"] = partial(TensorBoardTracker, folder.path, folder.run, step=step)
    if telemetry.wandb.mode != "disabled":
        asked["Weights & Biases"] = partial(WandbTracker, folder.path, folder.run, report)
    return [AsyncTracker(name, connect, report) for name, connect in asked.items()]
