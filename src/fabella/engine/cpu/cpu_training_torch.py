"""What a training on a CPU uses besides PyTorch's operations: kept memory and the training kernels."""

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fabella.engine.cpu.allocator import KeptMemory, keep_freed_memory
from fabella.models.nn.kernels.library import SWITCH, instructions, kernel_library, use_kernels
from fabella.native.build import NativeLibrary

Share = Callable[[Callable[[], str]], str]
"""Calls a function on one rank, and returns its result on all ranks."""


@dataclass(frozen=True, slots=True)
class CpuTraining:
    """Training kernels of one engine; none on other devices, without a compiler, and where the user disabled them."""

    library: ctypes.CDLL | None = None
    warning: str = ""
    """Why there are none, as one sentence for the user; empty if there is nothing to report."""
    memory: KeptMemory | None = None
    """Freed memory that the process keeps; None where it keeps none."""

    def after_pass(self) -> None:
        """Call after each forward and backward pass, and each validation batch: kept memory stays bounded."""
        if self.memory is not None:
            self.memory.after_pass()

    def context(self) -> AbstractContextManager[object]:
        """Return the context of forward and backward pass."""
        return nullcontext() if self.library is None else use_kernels(self.library)

    def describe(self) -> str:
        """Return ``none``, or the instructions that the kernels were compiled for; other ones give other bits."""
        return "none" if self.library is None else instructions(self.library)


def prepare_cpu_training(device: torch.device, share: Share, recorded: str = "") -> CpuTraining:
    """Keep freed memory in this process, and return the kernels, compiled by rank 0 first; nothing on a GPU.

    ``recorded``: what an interrupted training used, as in ``describe``; one without kernels continues without,
    unless the user sets FABELLA_KERNELS=auto.
    Raises ConfigError for an unknown value of FABELLA_KERNELS.
    """
    if device.type != "cpu":
        return CpuTraining()
    memory = KeptMemory() if keep_freed_memory() else None
    if recorded == "none" and os.environ.get(SWITCH) != "auto":
        return CpuTraining(memory=memory)
    built: list[NativeLibrary] = []

    def build() -> str:
        built.append(kernel_library())
        return built[0].warning if built[0].library is None else "built"

    # Ranks that differed would compute the same gradient with other bits, so all of them do what rank 0 does.
    result = share(build)
    if result != "built":
        return CpuTraining(warning=result, memory=memory)
    native = built[0] if built else kernel_library()
    return CpuTraining(native.library, native.warning, memory)
