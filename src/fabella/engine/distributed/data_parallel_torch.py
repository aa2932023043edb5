"""How one model lies on several devices: whole on each (data parallel), or in shards (FSDP2).

Every process is given the same global batch and takes its own rows of it, so that samples and their order do not
depend on how many there are. Gradients are averaged over the processes, in one pass a step, with the last micro-batch.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fabella.config.training import DDP, FSDP
from fabella.engine import engine_torch
from fabella.engine.distributed.process_group_torch import TorchRanks
from fabella.engine.distributed.single_device_torch import Arrays, SingleDeviceStrategy, as_array


def parallelize(model: nn.Module, ranks: TorchRanks, section: DDP | FSDP) -> SingleDeviceStrategy:
    """The model on the devices of all ``ranks``; each must call this with the same weights."""
    return FSDPStrategy(model, ranks) if isinstance(section, FSDP) else DDPStrategy(model, ranks)


class DDPStrategy(SingleDeviceStrategy):
    """The whole model on every device, its gradients averaged by DDP while the last backward pass goes on."""

    def __init__(self, model: nn.Module, ranks: TorchRanks) -> None:
        super().__init__(model)
        self.ranks, self.size = ranks, ranks.place.world_size
        self.description = f"data, {self.size} processes"
        self.carrier = DistributedDataParallel(_Loss(model), gradient_as_bucket_view=True)
        self._settle_buckets()

    def local_rows(self, count: int) -> range:
        share = count // self.size
        return range(self.ranks.place.rank * share, (self.ranks.place.rank + 1) * share)

    def _settle_buckets(self) -> None:
        """One backward pass for nothing: after its first, DDP puts the gradients into buckets anew.

        With three or more processes a gradient's place in its bucket decides in which order the sums are rounded. A
        resumed run must not take its first step with other places than the undisturbed one, whose first was long ago.
        """
        self.model.eval()  # nothing is compiled for these shapes
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=self.ranks.device)
        for _ in range(2):  # the second is the first in the new buckets
            self.carrier(tokens, tokens).backward()
        self.model.train().zero_grad(set_to_none=True)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.carrier(tokens, targets)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.carrier.no_sync()

    def mean_loss(self, loss: Tensor) -> Tensor:
        return self.ranks.sum(loss) / self.size

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        count = len(tokens)
        share = -(-count // self.size)  # the last rows are filled up with the first
        mine = (torch.arange(share, device=tokens.device) + self.ranks.place.rank * share) % count
        return self.ranks.gathered(super().losses(tokens[mine], targets[mine]))[:count]

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        return super().to_numpy(tensors) if self.ranks.place.rank == 0 else {}


class FSDPStrategy(DDPStrategy):
    """Every parameter, gradient and moment in shards, one a device; a block is made whole while it is computed."""

    def __init__(self, model: Any, ranks: TorchRanks) -> None:
        SingleDeviceStrategy.__init__(self, model)
        self.ranks, self.size = ranks, ranks.place.world_size
        self.description = f"fsdp, {self.size} processes"
        self.config = model.config
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        for method in ("loss", "token_losses"):
            register_fsdp_forward_method(model, method)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, targets)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def eval_model(self) -> nn.Module:
        weights = {name: as_array(_full(parameter)) for name, parameter in self.model.named_parameters()}
        return engine_torch.build(self.config, weights, self.ranks.device).eval()

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        return _full(super().grad_norms(gradients))

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        first = self.ranks.place.rank == 0
        full_tensor = ((name, _full(tensor)) for name, tensor in tensors.items())
        return {name: array for name, tensor in full_tensor for array in ([as_array(tensor)] if first else [])}

    def full_tensor(self, tensor: Tensor) -> Tensor:
        return _full(tensor)

    def distribute(self, to_numpy: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return to_numpy
        return distribute_tensor(to_numpy, like.device_mesh, like.placements, src_data_rank=None)

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        return self.distribute(torch.tensor(array, device=like.device), like)


class _Loss(nn.Module):
    """DDP watches ``forward``; what is learned by is ``loss``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, targets)


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
