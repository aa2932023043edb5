"""Parallel strategy for a single device; data_parallel_torch.py implements the same interface with DDP and FSDP2."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

from torch import Tensor, nn

from fabella.engine.distributed.strategy_torch import Arrays, ReplicatedStrategy, as_array


@final
class SingleDeviceStrategy(ReplicatedStrategy):
    """The complete model in one process, without communication."""

    size = 1
    description = ""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def local_rows(self, count: int) -> range:
        return range(count)

    def loss(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return self.model.loss(tokens, targets, *document_starts)

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def mean_loss(self, loss: Tensor) -> Tensor:
        return loss

    def losses(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        return self.model.token_losses(tokens, targets, *document_starts)

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        return {name: as_array(tensor) for name, tensor in tensors.items()}
