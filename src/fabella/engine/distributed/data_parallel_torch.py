"""Data-parallel strategies: complete replicas (DDP) or sharded parameters (FSDP2).

Gradients are averaged over the ranks once a step, during the backward pass of the last micro-batch.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fabella.engine.build_model_torch import build
from fabella.engine.distributed.process_group_torch import TorchProcessGroup
from fabella.engine.distributed.strategy_torch import Arrays, ReplicatedStrategy, Strategy, as_array, local_grad_norms


@final
class DDPStrategy(ReplicatedStrategy):
    """The complete model on every rank; DDP averages the gradients while the last backward pass runs."""

    def __init__(self, model: nn.Module, group: TorchProcessGroup) -> None:
        self.model: Any = model
        self.group, self.size = group, group.rank_info.world_size
        self.description = f"ddp, {self.size} processes"
        self.replica = DistributedDataParallel(_LossModule(model), gradient_as_bucket_view=True)
        self._settle_buckets()

    def _settle_buckets(self) -> None:
        """Run two throw-away backward passes: after the first one, DDP reassigns the gradients to buckets.

        With three or more ranks, a gradient's offset in its bucket decides the order in which its sum is rounded.
        Without this, the first step of a resumed run would round differently from that step of an uninterrupted run.
        """
        self.model.eval()  # so that nothing is compiled for these shapes
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=self.group.device)
        for _ in range(2):  # the second pass is the first one with the new buckets
            self.replica(tokens, tokens).backward()
        self.model.train().zero_grad(set_to_none=True)

    def local_rows(self, count: int) -> range:
        return _local_rows(count, self.group)

    def loss(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return self.replica(tokens, targets, *document_starts)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.replica.no_sync()

    def mean_loss(self, loss: Tensor) -> Tensor:
        return self.group.sum(loss) / self.size

    def losses(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return _gathered_losses(self.model, self.group, tokens, targets, *document_starts)

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        return {name: as_array(tensor) for name, tensor in tensors.items()} if self.group.rank_info.is_main else {}


@final
class FSDPStrategy(Strategy):
    """Parameters, gradients and optimizer state sharded over the ranks; a block is gathered while it is computed."""

    def __init__(self, model: Any, group: TorchProcessGroup) -> None:
        self.model: Any = model
        self.config = model.config
        self.group, self.size = group, group.rank_info.world_size
        self.description = f"fsdp, {self.size} processes"
        # Without a mesh, FSDP takes the accelerator of the machine, also for a training on its CPU.
        mesh = init_device_mesh(group.device.type, (self.size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for method in ("loss", "token_losses"):
            register_fsdp_forward_method(model, method)

    def local_rows(self, count: int) -> range:
        return _local_rows(count, self.group)

    def loss(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return self.model.loss(tokens, targets, *document_starts)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def mean_loss(self, loss: Tensor) -> Tensor:
        return self.group.sum(loss) / self.size

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        return self.full_tensor(local_grad_norms(gradients))

    def losses(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        losses = _gathered_losses(self.model, self.group, tokens, targets, *document_starts)
        self.model.reshard()  # no backward pass does it; full parameters must not be restored or saved as local ones
        return losses

    def eval_model(self) -> nn.Module:
        weights = {name: as_array(self.full_tensor(parameter)) for name, parameter in self.model.named_parameters()}
        return build(self.config, weights, self.group.device).eval()

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        arrays: Arrays = {}
        for name, tensor in tensors.items():
            full = self.full_tensor(tensor)  # a collective: every rank takes part, only rank 0 copies
            if self.group.rank_info.is_main:
                arrays[name] = as_array(full)
        return arrays

    def full_tensor(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def local_tensor(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def distribute(self, full: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return full
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        return self.distribute(torch.tensor(array, device=like.device), like)


class _LossModule(nn.Module):
    """Adapter: DDP hooks ``forward``, and training calls ``loss``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return self.model.loss(tokens, targets, *document_starts)


def _local_rows(count: int, group: TorchProcessGroup) -> range:
    share = count // group.rank_info.world_size
    return range(group.rank_info.rank * share, (group.rank_info.rank + 1) * share)


def _gathered_losses(model: Any, group: TorchProcessGroup, *inputs: Tensor) -> Tensor:
    count = len(inputs[0])
    share = -(-count // group.rank_info.world_size)  # the last rank's missing rows are filled up with the first rows
    rows = (torch.arange(share, device=inputs[0].device) + group.rank_info.rank * share) % count
    return group.gathered(model.token_losses(*(tensor[rows] for tensor in inputs)))[:count]
