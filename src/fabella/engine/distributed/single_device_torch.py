"""Parallel strategy for a single device; data_parallel_torch.py implements the same interface with DDP and FSDP2."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.engine.distributed.strategy_torch import Arrays, Strategy, as_array, local_grad_norms


@final
class SingleDeviceStrategy(Strategy):
    """The complete model in one process, without communication."""

    size = 1
    description = ""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def local_rows(self, count: int) -> range:
        return range(count)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, targets)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def mean_loss(self, loss: Tensor) -> Tensor:
        return loss

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        return local_grad_norms(gradients)

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.model.token_losses(tokens, targets)

    def eval_model(self) -> nn.Module:
        return self.model.eval()

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        return {name: as_array(tensor) for name, tensor in tensors.items()}

    def full_tensor(self, tensor: Tensor) -> Tensor:
        return tensor

    def distribute(self, full: Tensor, like: Tensor) -> Tensor:
        return full

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        return torch.tensor(array, device=like.device)
