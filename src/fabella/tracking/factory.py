"""The services that a run's config asks for, each on a thread of its own."""

import importlib
from collections.abc import Callable
from functools import partial

from fabella.config.tracking import Telemetry
from fabella.errors import ConfigError
from fabella.runs.run_dir import RunFolder
from fabella.tracking.async_tracker import Aside, Report, Service
from fabella.tracking.tensorboard import EventFile
from fabella.tracking.wandb import TrackedRun


def require(telemetry: Telemetry) -> None:
    """Raises ConfigError where a service is asked for whose package is not installed: before a run begins."""
    if telemetry.tensorboard:
        _require_package("telemetry.tensorboard=true", "tensorboard.summary")
    if telemetry.wandb.mode != "disabled":
        _require_package(f"telemetry.wandb.mode={telemetry.wandb.mode}", "wandb")


def _require_package(setting: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"{setting} cannot be used: Python has no module '{missing.name}'.",
            fix="Install it (pip install 'fabella[track]'), or leave the setting out.",
        ) from None


def services(folder: RunFolder, *, step: int, report: Report) -> list[Aside]:
    """The services of the run in ``folder``, which goes on from ``step``; close each of them at the end."""
    telemetry = folder.run.telemetry
    asked: dict[str, Callable[[], Service]] = {}
    if telemetry.tensorboard:
        asked["TensorBoard"] = partial(EventFile, folder.path, folder.run, step=step)
    if telemetry.wandb.mode != "disabled":
        asked["Weights & Biases"] = partial(TrackedRun, folder.path, folder.run, report)
    return [Aside(name, connect, report) for name, connect in asked.items()]
