"""Runs, batches and clocks of the sections that measure PyTorch."""

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.sections import Settings
from fabella.data.batches import Batch
from fabella.engine.engine import State
from fabella.run_config.files import load_config, preset
from fabella.run_config.run import RunConfig

PRESETS = ("minigpt-100m", "gpt2-92m", "piny-37m", "tinystories-28m", "tinystories-8m", "mingru-17m")
"""Shapes that people train, of every family that a preset has."""
TINY_MODEL = {
    "vocab_size": 512, "context_length": 64, "dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 96,
    "embedding": 32,
}  # fmt: skip
TINY_LENGTH, TINY_MICRO_BATCH = 32, 4


def section_run(name: str, *overrides: str, tiny: bool) -> RunConfig:
    """Return the config of a preset with two micro-batches a step, and with a tiny model if requested."""
    base = preset(name)
    small: list[str] = []
    if tiny:
        fields = type(base.model).model_fields
        small += [f"model.{field}={value}" for field, value in TINY_MODEL.items() if field in fields]
        small += [f"data.sequences.length={TINY_LENGTH}", f"training.micro_batch_size={TINY_MICRO_BATCH}"]
        small += [f"data.sequences.stride={TINY_LENGTH}"] if base.data.sequences.kind == "packed" else []
    return load_config(name, ["training.gradient_accumulation=[[0, 2]]", *small, *overrides])


def packed(run: RunConfig) -> list[str]:
    """Return the overrides that pack the run's sequences, as compiled blocks require."""
    length = run.data.sequences.length
    return [f"data.sequences={{kind: packed, length: {length}, stride: {length}}}"]


def random_batch(run: RunConfig, sequences: int, seed: int = 0) -> Batch:
    """Return ``sequences`` sequences of random token ids, each position with its target."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, run.model.vocab_size, (sequences, run.data.sequences.length + 1)).astype(np.int32)
    return Batch(tokens=ids[:, :-1].copy(), targets=ids[:, 1:].copy())


def global_batch(run: RunConfig, seed: int = 0) -> Batch:
    """Return a random batch of one training step."""
    return random_batch(run, run.training.micro_batch_size * run.training.gradient_accumulation[0][1], seed)


def tensors(batch: Batch, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the batch's token ids and targets, int64, on the device."""
    tokens, targets = (torch.from_numpy(array).to(device).long() for array in (batch.tokens, batch.targets))
    return tokens, targets


def digest(state: State) -> str:
    """Return the sha256 of all weights and of the optimizer state."""
    found = hashlib.sha256()
    for arrays in (state.weights, state.optimizer_state):
        for name in sorted(arrays):
            found.update(name.encode() + arrays[name].tobytes())
    return found.hexdigest()


def synchronize(settings: Settings) -> None:
    """Wait for all queued work of the device."""
    if settings.on_gpu:
        torch.cuda.synchronize()


def free_memory(settings: Settings) -> None:
    """Return the cached memory to the GPU, and start its peak from zero."""
    if settings.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def median_seconds(settings: Settings, work: Callable[[], Any], *, repeats: int = 10, warmup: int = 3) -> float:
    """Return the median time of ``work``, by the clock of the host around a synchronized device."""
    if settings.tiny:
        repeats, warmup = 2, 1
    for _ in range(warmup):
        work()
    times: list[float] = []
    for _ in range(repeats):
        synchronize(settings)
        start = time.perf_counter()
        work()
        synchronize(settings)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_flops(settings: Settings, dtype: torch.dtype) -> float:
    """Return the FLOP/s of products of random square matrices.

    Not of ones: a GPU draws less power for them, and its clock is higher than in training.
    """
    size = 128 if settings.tiny else 8192
    a, b = (torch.randn(size, size, device=settings.device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(settings, lambda: a @ b)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ‖actual − expected‖ / ‖expected‖, in float64."""
    wide = expected.double()
    return float((actual.double() - wide).norm() / wide.norm())
