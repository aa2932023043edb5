"""Build a family's PyTorch model, and load it with given weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fabella.engine.device_torch import pick_device
from fabella.errors import CheckpointError
from fabella.models.model_config import ModelConfig
from fabella.models.registry import network_module


def build(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], device: torch.device) -> nn.Module:
    """Return the family's ``Model`` with ``weights`` on ``device``. Raises CheckpointError if they do not fit."""
    module = network_module(config, "torch")
    # Not on the meta device: its first tensor alone takes half a second of imports.
    with device, _Uninitialized():
        model: nn.Module = module.Model(config)
    load_weights(model, weights)
    return model


def load_model(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], device: str = "auto") -> nn.Module:
    """Return the family's model with ``weights`` in evaluation mode. Raises CheckpointError if they do not fit."""
    return build(config, weights, pick_device(device)).eval().requires_grad_(False)


class _Uninitialized(TorchFunctionMode):
    """Skip ``torch.nn.init``: every parameter is overwritten with the given weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_weights(model: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy every array into its parameter, in place. Raises CheckpointError for other names or shapes."""
    require_fit(model, weights)
    tensors: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in weights.items()}
    model.load_state_dict(tensors)


def require_fit(model: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise CheckpointError unless names and shapes of ``weights`` equal those of the model's parameters."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    actual = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != actual:
        differences = sorted(expected.items() ^ actual.items())
        raise CheckpointError(f"Weights do not fit the model. The first that differ: {differences[:5]}.")
