"""Which part of a PyTorch model is the first to give something that is not finite."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fabella.engine.engine_torch import TorchEngine


@contextmanager
def trace_nonfinite(engine: TorchEngine) -> Generator[list[str]]:
    """The modules whose outputs are not finite, in the order they were computed: the first is where it began.

    Every output waits for the device, so that this is for a step or two, not for a training.
    """
    found: list[str] = []
    named: list[tuple[str, nn.Module]] = [(name, module) for name, module in engine.model.named_modules() if name]
    hooks = [module.register_forward_hook(_look(name, found)) for name, module in named]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _look(name: str, found: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple | list) else (output,)  # pyright: ignore[reportUnknownVariableType]
        tensors = [part for part in outputs if isinstance(part, Tensor)]  # pyright: ignore[reportUnknownVariableType]
        if not all(bool(torch.isfinite(part).all()) for part in tensors):
            found.append(name)

    return hook
