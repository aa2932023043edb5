"""torch.compile for training: each block becomes fused kernels, everything else stays eager.

Only the blocks are compiled (regional compilation): all blocks of a model share one piece of code, which is compiled
for the first one and reused for the rest. Generation, whose states grow with every token, stays eager. Kernels depend
on the shapes that they were first compiled for, so all sequences must have one length: with batches padded to their
longest document, a resumed run would see the shapes in another order, and its bits would differ.
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
from fabella.engine.compile.compile_cache_torch import CompileCache, use_compile_cache
from fabella.engine.compile.gradient_checkpointing_torch import checkpoint_blocks
from fabella.errors import ConfigError
from fabella.models.flops import flops_per_token
from fabella.models.nn.recurrence_torch import MinGRU
from fabella.run_config.run import RunConfig

MIN_OPERATIONS = {"cpu": 5e13, "cuda": 1e16}
"""Operations of a run above which half a minute of compilation pays: ten minutes on two cores, one on a large GPU."""


def prepare_blocks(
    model: nn.Module, run: RunConfig, device: torch.device, *, kernels: bool = False
) -> tuple[bool, CompileCache]:
    """Compile the blocks and set up gradient checkpointing as the config says.

    Return whether the blocks are compiled, and the compile cache to mark complete after the first training step.
    """
    compiled = is_compiled(run, device, kernels=kernels)
    cache = use_compile_cache() if compiled else CompileCache()
    if compiled:
        compile_blocks(model, deterministic=run.training.deterministic and device.type == "cuda")
    if run.training.gradient_checkpointing == "blocks":
        checkpoint_blocks(model)
    return compiled, cache


def is_compiled(run: RunConfig, device: torch.device, *, kernels: bool = False) -> bool:
    """Return whether the run's blocks are compiled; a function of config and machine, equal for a resumed run.

    ``kernels``: whether training kernels are in use, which are faster than compiled blocks.
    Raises ConfigError if the config requires compilation and it is impossible.
    """
    obstacle = _obstacle(run, device)
    if run.training.compile == "blocks" and obstacle:
        raise ConfigError(f"training.compile=blocks: {obstacle[0]}", hint=obstacle[1])
    if run.training.compile != "auto" or obstacle or kernels:
        return run.training.compile == "blocks"
    return _operations(run) >= MIN_OPERATIONS.get(device.type, math.inf)


def _obstacle(run: RunConfig, device: torch.device) -> tuple[str, str] | None:
    """Return why the run cannot be compiled, with a hint; None if it can."""
    if not isinstance(run.data.sequences, Packed):
        return (
            "padded sequences have many lengths.",
            "Set data.sequences.kind=packed, or training.compile=none.",
        )
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        return "this machine has no C++ compiler.", "Install g++, or set training.compile=none."
    return None


def _operations(run: RunConfig) -> float:
    """Estimate the floating-point operations of the whole run; 0 if its length is not resolved to steps yet."""
    if not isinstance(run.training.length, MaxSteps):
        return 0.0
    sequences = run.training.length.max_steps * run.training.micro_batch_size * run.training.gradient_accumulation[0][1]
    length = run.data.sequences.length
    return float(sequences) * length * flops_per_token(run.model, length)


def compile_blocks(model: Any, *, deterministic: bool = False) -> None:
    """Compile each of ``model.blocks`` for training; in evaluation they stay eager. Parameter names stay the same.

    ``deterministic``: the order of sums is not chosen by timing, and an embedding's gradient is added without atomics.
    """
    options: Any = {"deterministic": True} if deterministic else None
    for module in model.modules():
        if isinstance(module, MinGRU):  # a loop over time: unrolled, it would take minutes to compile
            eager: Any = torch.compiler.disable(module.forward)
            module.forward = eager
    for block in model.blocks:
        compiled = torch.compile(block.forward, dynamic=False, options=options)
        block.forward = partial(_forward, block, block.forward, compiled)


def _forward(block: nn.Module, eager: Any, compiled: Any, *arguments: Any, **named: Any) -> Any:
    return (compiled if block.training else eager)(*arguments, **named)
