"""What differs between one device and many, and the answers where there is one: nobody is asked."""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config.training import DDP, FSDP
from fabella.engine.distributed.process_group import ProcessGroup

Arrays = dict[str, NDArray[np.float32]]


class SingleDeviceStrategy:
    """One process: the model is whole.

    ``distributed_torch`` has the same for many. There, every process calls every method, in the same order.
    """

    size = 1
    description = ""
    """For the manifest."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        """The model whose parameters are trained here: whole, or this process's shard of it."""

    def local_rows(self, count: int) -> range:
        """This process's rows of a global batch of ``count``."""
        return range(count)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, through whatever carries its gradients to the other processes."""
        return self.model.loss(tokens, targets)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: only the ``last`` of a step exchanges gradients."""
        return nullcontext()

    def mean_loss(self, loss: Tensor) -> Tensor:
        """The mean of every process's ``loss``."""
        return loss

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        """The norm of each whole gradient, [N]; all at once, as PyTorch's own clipping computes them."""
        return torch.stack(torch._foreach_norm(gradients))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """``model.token_losses`` of all rows, [B T], each computed by one process."""
        return self.model.token_losses(tokens, targets)

    def eval_model(self) -> nn.Module:
        """The whole model without dropout, for ``generation``; ``model`` is not to be trained meanwhile."""
        return self.model.eval()

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        """Copies of whole tensors, on the first process; nothing on the others."""
        return {name: as_array(tensor) for name, tensor in tensors.items()}

    def full_tensor(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor that lies on the devices as a parameter does, on every process; itself if it is one."""
        return tensor

    def distribute(self, whole: Tensor, like: Tensor) -> Tensor:
        """``whole``, which is the same on every process, as a tensor that lies on the devices as ``like`` does."""
        return whole

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        """A whole array as a tensor that lies on the devices as ``like`` does."""
        return torch.tensor(array, device=like.device)


def spread(model: nn.Module, ranks: ProcessGroup, section: DDP | FSDP) -> SingleDeviceStrategy:
    """The model on all devices of ``ranks``, as the config's section ``parallel`` says; alone, it stays as it is."""
    if ranks.place.world_size == 1:
        return SingleDeviceStrategy(model)
    # Loading FSDP takes most of a second: only where it is used.
    return importlib.import_module("fabella.engine.distributed.data_parallel_torch").spread(model, ranks, section)


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A copy in float32 that later steps do not change."""
    return tensor.detach().to("cpu", torch.float32).numpy().copy()
