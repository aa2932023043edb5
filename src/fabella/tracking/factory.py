"""Create the trackers of a run's config.

A tracker is one file of this package, found by the name of its config key: ``tracking.NAME`` is a bool or a section
with a ``mode``, and ``NAME.py`` (or ``NAME_torch.py``) defines ``TITLE``, its third-party ``PACKAGE``, and
``connect(run_dir, step=, report=)``, which returns a RemoteTracker.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

from fabella.config.tracking import TrackingConfig
from fabella.errors import ConfigError
from fabella.runs.run_dir import RunDir
from fabella.tracking.async_tracker import AsyncTracker, Report


def require_packages(config: TrackingConfig) -> None:
    """Raise ConfigError if the package of an enabled tracker is not installed; called before a run begins."""
    for setting, module in _enabled(config):
        try:
            importlib.import_module(importlib.import_module(module).PACKAGE)
        except ModuleNotFoundError as missing:
            raise ConfigError(
                f"Cannot use {setting}: Python has no module '{missing.name}'.",
                hint="Install it with pip install 'fabella[track]', or remove the setting.",
            ) from None


def open_trackers(run_dir: RunDir, *, step: int, report: Report) -> list[AsyncTracker]:
    """Return the enabled trackers of a run that continues after ``step``. The caller closes them."""
    modules: list[Any] = [importlib.import_module(module) for _, module in _enabled(run_dir.run.tracking)]
    return [
        AsyncTracker(module.TITLE, partial(module.connect, run_dir, step=step, report=report), report)
        for module in modules
    ]


def _enabled(config: TrackingConfig) -> Iterator[tuple[str, str]]:
    """Yield the setting and the module name of each enabled tracker."""
    for key in type(config).model_fields:
        module = _module_name(key)
        value: Any = getattr(config, key)
        if not module:
            continue
        if isinstance(value, bool):
            if value:
                yield f"tracking.{key}=true", module
        elif value.mode != "disabled":
            yield f"tracking.{key}.mode={value.mode}", module


def _module_name(key: str) -> str:
    """Return the module of the tracker ``key``, or an empty string for a key that is not a tracker."""
    names = (f"{__package__}.{key}", f"{__package__}.{key}_torch")
    return next((name for name in names if importlib.util.find_spec(name)), "")
