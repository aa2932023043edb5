"""The interface of the parallel strategies: how one training step is distributed over devices."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = dict[str, NDArray[np.float32]]


class Strategy(Protocol):
    """One model in training on the devices of all ranks.

    Every rank receives the same global batch and takes its own rows of it, so that the samples and their order do not
    depend on the number of ranks. All ranks call the same methods in the same order.
    """

    size: int
    """Number of ranks."""
    description: str
    """For the manifest; empty for a single device."""
    model: Any
    """The ``nn.Module`` whose parameters this rank trains: complete, or with local tensors only (FSDP)."""

    def local_rows(self, count: int) -> range:
        """Return this rank's rows of a global batch of ``count`` rows."""
        ...

    def loss(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        """Return the model's loss [] in a form whose gradients are averaged over the ranks.

        ``document_starts``: one tensor [B, T] if documents are masked, else none; as the model takes it.
        """
        ...

    def no_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """Wrap forward and backward of a micro-batch: gradients are exchanged only with the ``last`` one of a step."""
        ...

    def mean_loss(self, loss: Tensor) -> Tensor:
        """Return the mean of ``loss`` [] over all ranks."""
        ...

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of each full gradient, [N]."""
        ...

    def losses(self, tokens: Tensor, targets: Tensor, *document_starts: Tensor) -> Tensor:
        """Return ``model.token_losses`` of all rows, [B T]; each row is computed by one rank."""
        ...

    def eval_model(self) -> nn.Module:
        """Return the complete model without dropout, for generation. It must not be trained while it is in use."""
        ...

    def to_numpy(self, tensors: Mapping[str, Tensor]) -> Arrays:
        """Return float32 copies of the full tensors on rank 0, and an empty dict on every other rank."""
        ...

    def full_tensor(self, tensor: Tensor) -> Tensor:
        """Gather a tensor that is distributed like a parameter. Return a complete tensor as it is."""
        ...

    def local_tensor(self, tensor: Tensor) -> Tensor:
        """Return this rank's part of a tensor that is distributed like a parameter; both share their memory."""
        ...

    def distribute(self, full: Tensor, like: Tensor) -> Tensor:
        """Distribute ``full``, equal on every rank, over the devices as ``like`` is."""
        ...

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        """Return a full array as a tensor that is distributed over the devices as ``like`` is."""
        ...


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a float32 copy that later steps do not change."""
    # Copied before it becomes an array: a storage that an array shares cannot be resized, as FSDP does.
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


def local_grad_norms(gradients: list[Tensor]) -> Tensor:
    """Return the norm of each gradient, [N], in one fused call, as PyTorch's own clipping computes them."""
    return torch.stack(torch._foreach_norm(gradients))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


class ReplicatedStrategy(Strategy):
    """A strategy whose ranks all hold the complete model; gradients, parameters and their norms are local."""

    def grad_norms(self, gradients: list[Tensor]) -> Tensor:
        return local_grad_norms(gradients)

    def eval_model(self) -> nn.Module:
        return self.model.eval()

    def full_tensor(self, tensor: Tensor) -> Tensor:
        return tensor

    def local_tensor(self, tensor: Tensor) -> Tensor:
        return tensor

    def distribute(self, full: Tensor, like: Tensor) -> Tensor:
        return full

    def from_numpy(self, array: NDArray[np.float32], like: Tensor) -> Tensor:
        return torch.tensor(array, device=like.device)
