"""torch.compile for training: each block becomes fused kernels; everything else stays as it is.

Compiled are the blocks alone ("regional compilation"): all of a model's are one piece of code, compiled once for its
first and reused for the rest, and generating, whose states grow with every token, goes the ordinary way. Kernels
depend on the shapes they were first made for. So windows of one length only: with texts padded to the longest of
each batch, a resumed run would meet its shapes in another order, and its bits would be others.
"""

import math
import os
import shutil
from functools import partial
from typing import Any

import torch
from torch import nn

from fabella.config.data import Packed
from fabella.config.training import MaxSteps
from fabella.errors import ConfigError
from fabella.models.flops import flops_per_token
from fabella.models.nn.recurrence_torch import MinGRU
from fabella.run_config.run import RunConfig

LONG_ENOUGH = {"cpu": 5e13, "cuda": 1e16}
"""Operations from which half a minute of compiling pays: some ten minutes on two cores, about one on a large GPU."""


def is_compiled(run: RunConfig, device: torch.device) -> bool:
    """Whether the run's blocks are compiled: from config and machine alone, so that a resumed run decides the same.

    Raises ConfigError where it was asked for and cannot be.
    """
    obstacle = _obstacle(run, device)
    if run.training.compile == "blocks" and obstacle:
        raise ConfigError(f"training.compile=blocks: {obstacle[0]}", hint=obstacle[1])
    if run.training.compile != "auto" or obstacle:
        return run.training.compile == "blocks"
    return _operations(run) >= LONG_ENOUGH.get(device.type, math.inf)


def _obstacle(run: RunConfig, device: torch.device) -> tuple[str, str] | None:
    """What stands in the way, and what can be done about it."""
    if not isinstance(run.data.sequences, Packed):
        return (
            "windows of whole documents have many lengths.",
            "Set data.sequences.kind=packed, or training.compile=none.",
        )
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        return "there is no C++ compiler on this machine.", "Install g++, or set training.compile=none."
    return None


def _operations(run: RunConfig) -> float:
    """Floating-point operations of the whole run, about; 0 where its length is not resolved to steps yet."""
    if not isinstance(run.training.length, MaxSteps):
        return 0.0
    windows = run.training.length.max_steps * run.training.micro_batch_size * run.training.gradient_accumulation[0][1]
    length = run.data.sequences.length
    return float(windows) * length * flops_per_token(run.model, length)


def compile_blocks(model: Any) -> None:
    """Let every one of ``model.blocks`` run compiled in training, as before otherwise; names and weights stay."""
    for module in model.modules():
        if isinstance(module, MinGRU):  # a loop over time: unrolled it would take minutes to compile
            apart: Any = torch.compiler.disable(module.forward)
            module.forward = apart
    for block in model.blocks:
        block.forward = partial(_forward, block, block.forward, torch.compile(block.forward, dynamic=False))


def _forward(block: nn.Module, eager: Any, compiled: Any, *arguments: Any, **named: Any) -> Any:
    return (compiled if block.training else eager)(*arguments, **named)
