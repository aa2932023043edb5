"""Optimizer settings per parameter: the config's parameter groups applied to the parameter table."""

from collections.abc import Iterable
from dataclasses import dataclass

from fabella.config.optimizer import ParamGroups, ParamGroupsNoDecay, ParamGroupWithDecay
from fabella.models.parameters import ParameterSpec, ParameterTable


@dataclass(frozen=True, slots=True)
class ParamSettings:
    """Settings of one parameter: the factor on the step's learning rate, and its weight decay."""

    lr_factor: float
    weight_decay: float


def param_group(parameter: ParameterSpec) -> str:
    """Return ``embeddings`` (output heads included), ``matrices``, or ``vectors`` (biases and norm scales)."""
    if parameter.embedding:
        return "embeddings"
    return "matrices" if parameter.decay else "vectors"


def grouped_settings(
    table: ParameterTable,
    groups: ParamGroups | ParamGroupsNoDecay,
    *,
    lr_factor: float = 1.0,
    weight_decay: float = 0.0,
) -> dict[str, ParamSettings]:
    """Return the settings of every parameter in the table's order: the given values times its group's factors."""
    settings: dict[str, ParamSettings] = {}
    for name, parameter in table.items():
        group = getattr(groups, param_group(parameter))
        decay = weight_decay * group.decay_factor if isinstance(group, ParamGroupWithDecay) else 0.0
        settings[name] = ParamSettings(lr_factor * group.lr_factor, decay)
    return settings


def moments(kind: str, table: ParameterTable, names: Iterable[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return ``KIND.NAME`` → shape of one moment per parameter, for all parameters of the table or for ``names``."""
    return {f"{kind}.{name}": table[name].shape for name in (table if names is None else names)}
