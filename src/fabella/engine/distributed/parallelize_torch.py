"""Choose the parallel strategy of a training."""

import importlib

from torch import nn

from fabella.config.training import DDP, FSDP
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.distributed.single_device_torch import SingleDeviceStrategy
from fabella.engine.distributed.strategy_torch import Strategy


def parallelize(model: nn.Module, group: ProcessGroup, config: DDP | FSDP) -> Strategy:
    """Distribute ``model`` over the ranks of ``group``. All ranks must call this with the same weights."""
    if group.rank_info.world_size == 1:
        return SingleDeviceStrategy(model)
    # Importing FSDP takes most of a second, so it is imported only where it is used.
    distributed = importlib.import_module("fabella.engine.distributed.data_parallel_torch")
    return (distributed.FSDPStrategy if isinstance(config, FSDP) else distributed.DDPStrategy)(model, group)
