"""Find an optimizer by the name of its file.

An optimizer is a file ``NAME.py`` with ``Config`` and ``state_spec(table, config)``, and a file per engine with
``create_optimizer``: ``NAME_torch.py``, ``NAME_jax.py``. The smallest one is a single ``NAME_torch.py`` with all three.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.optimizer import OptimizerConfig
from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import ParameterTable

Shape = tuple[int, ...]
ENGINE_SUFFIXES = ("_torch", "_jax")


def optimizer_names() -> list[str]:
    """Return the names of all optimizers: the files of ``fabella/optim`` with an engine's suffix."""
    return sorted({name.rpartition("_")[0] for name in _modules() if name.endswith(ENGINE_SUFFIXES)})


def optimizer_module(name: str) -> Any:
    """Import ``fabella.optim.NAME``, or ``NAME_torch`` for an optimizer in a single file.

    Raises ConfigError for an unknown name.
    """
    if name not in optimizer_names():
        raise ConfigError(f"Unknown optimizer.kind {name!r}.", hint=did_you_mean(name, optimizer_names()))
    return importlib.import_module(f"fabella.optim.{name if name in _modules() else name + '_torch'}")


def engine_module(name: str, engine: str) -> Any:
    """Import ``fabella.optim.NAME_ENGINE``. Raises ConfigError if the optimizer has no file for this engine."""
    if f"{name}_{engine}" not in _modules():
        raise ConfigError(
            f"optimizer.kind = {name!r} is not implemented for engine={engine}.",
            hint="Use optimizer.kind=adamw, or engine=torch.",
        )
    return importlib.import_module(f"fabella.optim.{name}_{engine}")


def parse_optimizer_config(values: Any) -> OptimizerConfig:
    """Return the optimizer's own ``Config`` from a mapping with ``kind``. Raises ConfigError for an unknown kind."""
    if isinstance(values, OptimizerConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise ConfigError("optimizer.kind is missing.", hint=f"Choose from: {', '.join(optimizer_names())}.")
    return optimizer_module(values["kind"]).Config.model_validate(dict(values))


def state_spec(table: ParameterTable, config: OptimizerConfig) -> dict[str, Shape]:
    """Return name → shape of the optimizer's state: ``first.NAME`` for a first moment or momentum, ``second.NAME`` …"""
    return optimizer_module(config.kind).state_spec(table, config)


def zero_state(table: ParameterTable, config: OptimizerConfig) -> dict[str, NDArray[np.float32]]:
    """Return the optimizer's state before the first update: zeros in float32, by the names of ``state_spec``."""
    return {name: np.zeros(shape, np.float32) for name, shape in state_spec(table, config).items()}


def has_same_state(kind: str, other: str) -> bool:
    """Return whether two optimizers can continue from each other's state: they then share one ``state_spec``."""
    return kind == other or optimizer_module(kind).state_spec is optimizer_module(other).state_spec


def _modules() -> set[str]:
    package = importlib.import_module("fabella.optim")
    return {module.name for module in pkgutil.iter_modules(package.__path__)}
