"""Find a family by the name of its file."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig


def family_names() -> list[str]:
    """Names of all families: the files of ``fabella/models`` with an engine's suffix that are not blocks (``nn*``)."""
    package = importlib.import_module("fabella.models")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    stems = {name.removesuffix("_torch").removesuffix("_jax") for name in modules if name.endswith(("_torch", "_jax"))}
    return sorted(stem for stem in stems if not stem.startswith("nn"))


def parse_model_config(values: Any) -> ModelConfig:
    """The family's own ``Config`` from a mapping with ``family``; the family is found by its file's name."""
    if isinstance(values, ModelConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("family"), str):
        raise ConfigError("model.family is missing.", hint=f"Choose from: {', '.join(family_names())}.")
    name = values["family"]
    if name not in family_names():
        raise ConfigError(f"model.family = {name!r} is no family here.", hint=did_you_mean(name, family_names()))
    return family_module(name).Config.model_validate(dict(values))


def family_module(name: str) -> Any:
    """``fabella.models.NAME``, or ``NAME_torch`` where the family is a single file (law 3 of the design)."""
    package = importlib.import_module("fabella.models")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return importlib.import_module(f"fabella.models.{name if name in modules else name + '_torch'}")
