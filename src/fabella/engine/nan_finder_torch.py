"""Find the first module of a PyTorch model with a non-finite output."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fabella.engine.engine_torch import TorchEngine


@contextmanager
def trace_nonfinite(engine: TorchEngine) -> Generator[list[str]]:
    """Collect the names of modules with non-finite outputs during the block, in the order of computation.

    Every module waits for the device: use it for single steps only.
    """
    names: list[str] = []
    modules: list[tuple[str, nn.Module]] = [(name, module) for name, module in engine.model.named_modules() if name]
    hooks = [module.register_forward_hook(_record_nonfinite(name, names)) for name, module in modules]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _record_nonfinite(name: str, names: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple | list) else (output,)  # pyright: ignore[reportUnknownVariableType]
        tensors = [part for part in outputs if isinstance(part, Tensor)]  # pyright: ignore[reportUnknownVariableType]
        if not all(bool(torch.isfinite(part).all()) for part in tensors):
            names.append(name)

    return hook
