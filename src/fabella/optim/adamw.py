"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

from typing import Literal

from pydantic import Field

from fabella.config.optimizer import Betas, OptimizerConfig, ParamGroups
from fabella.models.parameters import ParameterTable
from fabella.optim.param_groups import ParamSettings, grouped_settings, moments


class Config(OptimizerConfig):
    """Config section of AdamW; ``groups`` decides which parameters decay."""

    kind: Literal["adamw"] = "adamw"  # pyright: ignore[reportIncompatibleVariableOverride]
    betas: Betas = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0, description="number added to the root of the second moment, above 0")
    weight_decay: float = Field(
        default=0.01, ge=0.0, description="decoupled weight decay, from 0; the learning rate multiplies it"
    )
    groups: ParamGroups = ParamGroups()


def state_spec(table: ParameterTable, config: OptimizerConfig) -> dict[str, tuple[int, ...]]:
    """Return both moments of every parameter."""
    return moments("first", table) | moments("second", table)


def param_settings(table: ParameterTable, config: Config) -> dict[str, ParamSettings]:
    """Return learning-rate factor and weight decay of every parameter, in the table's order."""
    return grouped_settings(table, config.groups, weight_decay=config.weight_decay)
