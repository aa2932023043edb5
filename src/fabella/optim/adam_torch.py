"""Adam for PyTorch."""

from collections.abc import Mapping

from torch import nn

from fabella.models.parameters import ParameterTable
from fabella.optim.adam import Config, param_settings
from fabella.optim.updates.adam_update_torch import AdamUpdate
from fabella.optim.updates.interface_torch import TensorLayout


def create_optimizer(
    parameters: Mapping[str, nn.Parameter], table: ParameterTable, config: Config, layout: TensorLayout
) -> AdamUpdate:
    """Return the optimizer of ``parameters``, which are named in ``table``."""
    return AdamUpdate(parameters, param_settings(table, config), betas=config.betas, eps=config.eps)
