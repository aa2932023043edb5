"""Muon for the matrices inside the blocks, AdamW for all other parameters (Jordan et al. 2024).

Muon makes each update of a matrix nearly orthogonal. The updates are scaled to the size of AdamW's (Liu et al. 2025,
arXiv 2502.16982), so that a learning rate and a weight decay found for AdamW are reasonable for Muon too.
"""

from typing import Literal

from pydantic import Field

from fabella.config.base import ConfigModel
from fabella.config.optimizer import Betas, OptimizerConfig, ParamGroups
from fabella.models.parameters import ParameterTable, block_matrices
from fabella.optim.param_groups import ParamSettings, grouped_settings, moments


class AdamWParameters(ConfigModel):
    """Settings of the parameters that AdamW updates: all but the matrices inside the blocks."""

    lr_factor: float = Field(default=1.0, gt=0.0, le=1000.0, description="factor on lr for these parameters")
    weight_decay: float = Field(default=0.01, ge=0.0, description="weight decay of the matrices among them")


class Config(OptimizerConfig):
    """Config section of Muon; ``adamw``, ``betas`` and ``eps`` apply to the parameters that AdamW updates."""

    kind: Literal["muon"] = "muon"  # pyright: ignore[reportIncompatibleVariableOverride]
    lr: float = Field(gt=0.0, le=10.0, description="peak learning rate of the matrices inside the blocks")
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0, description="Nesterov momentum of those matrices")
    weight_decay: float = Field(default=0.1, ge=0.0, description="weight decay of those matrices")
    adamw: AdamWParameters = AdamWParameters()
    betas: Betas = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0, description="number added to the root of the second moment, above 0")
    groups: ParamGroups = Field(
        default=ParamGroups(), description="factors on top of the values above; Muon updates the blocks' matrices"
    )


def state_spec(table: ParameterTable, config: Config) -> dict[str, tuple[int, ...]]:
    """Return a momentum (``first.``) of every parameter, and a second moment of those that AdamW updates."""
    matrices = set(block_matrices(table))
    return moments("first", table) | moments("second", table, [name for name in table if name not in matrices])


def param_settings(table: ParameterTable, config: Config) -> dict[str, ParamSettings]:
    """Return learning-rate factor and weight decay of every parameter, in the table's order."""
    of_muon = grouped_settings(table, config.groups, weight_decay=config.weight_decay)
    of_adamw = grouped_settings(
        table, config.groups, lr_factor=config.adamw.lr_factor, weight_decay=config.adamw.weight_decay
    )
    matrices = set(block_matrices(table))
    return {name: (of_muon if name in matrices else of_adamw)[name] for name in table}
