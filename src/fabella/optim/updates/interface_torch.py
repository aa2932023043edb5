"""The interface of an optimizer for PyTorch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class TensorLayout(NamedTuple):
    """How parameters are distributed over the devices of a training (the identity on a single device)."""

    full_tensor: Callable[[Tensor], Tensor]
    """Gather a tensor that is distributed like a parameter. A collective: all ranks call it in the same order."""
    distribute: Callable[[Tensor, Tensor], Tensor]
    """``distribute(full, like)``: distribute a full tensor, equal on every rank, as ``like`` is."""
    matmul_dtype: torch.dtype = torch.float32
    """Data type for products of full tensors that need few digits: bfloat16 where these devices are faster with it."""


class TorchOptimizer(Protocol):
    """``NAME_torch.create_optimizer(parameters, table, config, layout)`` returns one.

    ``parameters`` maps names to ``nn.Parameter``. The engine clips the gradients before ``step`` and frees them later.
    """

    def step(self, lr: float, apply_update: Tensor) -> None:
        """Update all parameters from their gradients; ``lr`` is the step's learning rate before any factor.

        Parameters and state must stay unchanged where ``apply_update`` ([], bool) is False. It must not be read on the
        host, as that would wait for the device: ``tensor.copy_(torch.where(apply_update, new, tensor))``. On a CPU the
        engine does not call ``step`` for such a step.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of ``state_spec``, distributed like their parameters; zeros before the first step."""
        ...

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Replace the state by tensors that ``state()`` returned after ``updates`` applied updates."""
        ...

    def updates(self) -> int:
        """Return the number of applied updates, for the bias correction of a resumed run."""
        ...
