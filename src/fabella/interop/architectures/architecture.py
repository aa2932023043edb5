"""Contract of an architecture of Hugging Face, and its lookup by family or by ``model_type``.

An architecture is a module of ``fabella.interop.architectures`` with

    FAMILIES       families that it can describe: ``{"llama"}``
    MODEL_TYPES    values of ``model_type`` in a ``config.json`` that it can read
    IGNORED        endings of the names of saved tensors that are no weights
    PREFIX         beginning of the names of all tensors but the head; older files leave it out
    to_config(config)     the ``config.json`` of a family's Config, with ``architectures``; None if no class of
                          Hugging Face computes this model
    from_config(values)   the family's Config for a ``config.json``. Raises UsageError for what it does not support
    rows(config)          names and layouts of the weights

A family without an architecture is exported with its own modelling file.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from fabella.errors import UsageError
from fabella.interop import architectures
from fabella.interop.tensor_map import TensorRow
from fabella.models.model_config import ModelConfig


class Architecture(Protocol):
    """Module of one architecture."""

    FAMILIES: frozenset[str]
    MODEL_TYPES: frozenset[str]
    IGNORED: tuple[str, ...]
    PREFIX: str

    def to_config(self, config: Any) -> dict[str, Any] | None:
        """Return the ``config.json``; None if no class of Hugging Face computes this model."""
        ...

    def from_config(self, values: Mapping[str, Any]) -> ModelConfig:
        """Return the family's Config. Raises UsageError for what it does not support."""
        ...

    def rows(self, config: Any) -> Sequence[TensorRow]:
        """Return names and layouts of the weights."""
        ...


def all_architectures() -> Iterator[Any]:
    """Yield the modules of all architectures."""
    for module in pkgutil.iter_modules(architectures.__path__):
        loaded: Any = importlib.import_module(f"{architectures.__name__}.{module.name}")
        if hasattr(loaded, "FAMILIES"):
            yield loaded


def architecture_of(config: ModelConfig) -> Any:
    """Return the architecture that describes this model exactly; None if there is none."""
    for module in all_architectures():
        if config.family in module.FAMILIES and module.to_config(config) is not None:
            return module
    return None


def architecture_for(model_type: object) -> Any:
    """Return the architecture of a ``model_type``. Raises UsageError if none reads it."""
    known: set[str] = set()
    for module in all_architectures():
        known |= module.MODEL_TYPES
        if isinstance(model_type, str) and model_type in module.MODEL_TYPES:
            return module
    raise UsageError(
        f"Cannot import a model of type {str(model_type)[:60]!r}.", hint=f"Supported: {', '.join(sorted(known))}."
    )


def require_setting(values: Mapping[str, Any], name: str, *allowed: Any) -> None:
    """Raise UsageError unless a setting of a ``config.json`` is missing or has one of the supported values."""
    if name in values and values[name] not in allowed:
        shown = ", ".join(str(value) for value in allowed)
        raise UsageError(
            f"Cannot import a model with {name} = {str(values[name])[:60]}.", hint=f"Supported: {name} = {shown}."
        )


def require_choice(values: Mapping[str, Any], name: str, default: str, choices: Mapping[str, str]) -> Any:
    """Return the meaning of a setting of a ``config.json``. Raises UsageError unless it is one of ``choices``."""
    value = values.get(name) or default
    require_setting({name: value}, name, *choices)
    return choices[value]


def require_flag(values: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a setting of a ``config.json`` that is true or false, or ``default`` without one. Raises UsageError."""
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UsageError(
            f"config.json: {name} = {str(value)[:60]} is not true or false.",
            hint="Get the file again from the source of the model.",
        )
    return value


def rotary_settings(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the rotary embedding; ``rope_scaling`` holds, as in transformers, if there are both names.

    Raises UsageError if they are not an object.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise UsageError("config.json: rope_scaling is not an object.", hint="Get the file again.")
    return rope


def require_size(values: Mapping[str, Any], *names: str) -> int:
    """Return the first of the settings that a ``config.json`` has: an integer of at least 1. Raises UsageError."""
    for name in names:
        if values.get(name) is not None:
            if type(values[name]) is not int or values[name] < 1:
                raise UsageError(
                    f"config.json: {name} = {str(values[name])[:60]} is not an integer of at least 1.",
                    hint="Get the file again from the source of the model.",
                )
            return values[name]
    raise UsageError(f"config.json has no {names[0]}.", hint="Get the file again from the source of the model.")


def require_number(values: Mapping[str, Any], name: str, default: float) -> float:
    """Return a finite number of a ``config.json``, or ``default`` if it is missing. Raises UsageError."""
    value = values.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not abs(value) < 1e300:
        raise UsageError(
            f"config.json: {name} = {str(value)[:60]} is not a number.",
            hint="Get the file again from the source of the model.",
        )
    return float(value)
