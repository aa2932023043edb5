"""Timed training steps of the JAX engine, always on one batch; compared with the PyTorch engine."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.config.training import BFloat16, Float32, MaxSteps, TrainingConfig
from fabella.data.batches import Batch
from fabella.engine.device_jax import describe_devices, pick_devices
from fabella.engine.engine_jax import JaxEngine
from fabella.engine.measure.step_timer_jax import peak_flops
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights
from fabella.optim import adamw
from fabella.run_config.files import preset, preset_names
from fabella.run_config.run import RunConfig

PRECISIONS = {"float32": (Float32(), jnp.float32), "bf16": (BFloat16(), jnp.bfloat16)}

TrainStep = Callable[[NDArray[np.int32]], None]
"""One training step on token ids [B, T + 1]; returns when the device has finished it."""


def names(config: ModelConfig) -> list[str]:
    """Return the baselines of a model: both engines of Fabella."""
    del config
    return ["fabella", "fabella on torch"]


def create_baseline(name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> "Baseline":
    """Create the baseline ``fabella``, the JAX engine with dropout 0."""
    return Baseline(name, EngineStep(config, shape, precision, device), config, shape)


class EngineStep:
    """Training step of the JAX engine."""

    def __init__(self, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> None:
        config = config.model_copy(update={"dropout": 0.0}) if "dropout" in type(config).model_fields else config
        weights = initial_weights(config.parameters(), 1)
        self.engine = JaxEngine(_run(config, shape, precision), weights, pick_devices(device))

    def __call__(self, sequences: NDArray[np.int32]) -> None:
        """Take one step on token ids [B, T + 1]."""
        self.engine.step(Batch(sequences[:, :-1], sequences[:, 1:]), 1e-4).read()
        jax.block_until_ready(self.engine.weights)


class Baseline:
    """Training step that is timed on random sequences; the first step compiles."""

    def __init__(self, name: str, train_step: TrainStep, config: ModelConfig, shape: tuple[int, int]) -> None:
        """``shape``: (sequences, tokens each)."""
        self.name, self.train_step = name, train_step
        self.parameters = count(config.parameters())
        random = np.random.default_rng(1)
        ids = random.integers(0, config.vocab_size, 64 * shape[0] * shape[1]).astype(np.uint16)
        self.sequences = np.lib.stride_tricks.sliding_window_view(ids, shape[1] + 1)
        self.starts = random.integers(0, len(ids) - shape[1] - 1, (64, shape[0]))
        self.steps = 0

    def step(self) -> dict[str, float]:
        """Take one training step and return the seconds of each part."""
        start = time.perf_counter()
        rows = self.sequences[self.starts[self.steps % len(self.starts)]].astype(np.int32)
        loaded = time.perf_counter()
        self.train_step(rows)
        end = time.perf_counter()
        self.steps += 1
        return {"data": loaded - start, "step": end - loaded}


def _run(config: ModelConfig, shape: tuple[int, int], precision: str) -> RunConfig:
    """Return the config of any preset with this model; its other settings do not affect a step."""
    training = TrainingConfig(
        length=MaxSteps(max_steps=1), micro_batch_size=shape[0], precision=PRECISIONS[precision][0]
    )
    base = preset(preset_names()[0])
    return base.model_copy(update={"model": config, "training": training, "optimizer": adamw.Config(lr=1e-4)})


def peak(device: str, precision: str) -> float:
    """Return the measured peak of the machine's matrix products, in FLOP/s."""
    return peak_flops(pick_devices(device)[0], PRECISIONS[precision][1])


def set_threads(threads: int) -> None:
    """Do nothing: XLA uses the threads that the system gives the process."""
    del threads


def settings(device: str) -> dict[str, Any]:
    """Return the settings of JAX that a result depends on."""
    return {"engine": "jax", "jax": jax.__version__, "device": describe_devices(pick_devices(device))}
