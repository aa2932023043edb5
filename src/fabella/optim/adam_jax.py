"""Adam for JAX."""

from fabella.models.parameters import ParameterTable
from fabella.optim.adam import Config, param_settings
from fabella.optim.updates.adam_update_jax import AdamUpdate


def create_optimizer(table: ParameterTable, config: Config) -> AdamUpdate:
    """Return the optimizer of the parameters in ``table``."""
    return AdamUpdate(config.betas, config.eps, tuple(param_settings(table, config).items()))
