"""Adam without weight decay (Kingma & Ba 2015, arXiv 1412.6980)."""

from typing import Literal

from pydantic import Field

from fabella.config.optimizer import Betas, OptimizerConfig, ParamGroupsNoDecay
from fabella.models.parameters import ParameterTable
from fabella.optim.adamw import state_spec
from fabella.optim.param_groups import ParamSettings, grouped_settings

__all__ = ["Config", "param_settings", "state_spec"]


class Config(OptimizerConfig):
    """Config section of Adam."""

    kind: Literal["adam"] = "adam"  # pyright: ignore[reportIncompatibleVariableOverride]
    betas: Betas = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0, description="number added to the root of the second moment, above 0")
    groups: ParamGroupsNoDecay = ParamGroupsNoDecay()


def param_settings(table: ParameterTable, config: Config) -> dict[str, ParamSettings]:
    """Return the learning-rate factor of every parameter, in the table's order; nothing decays."""
    return grouped_settings(table, config.groups)
