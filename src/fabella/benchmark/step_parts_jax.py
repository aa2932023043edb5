"""Training steps of the JAX engine and of a step written by hand, on one batch; beside the PyTorch engine."""

import time
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fabella.benchmark.peers.models_jax import peer_of, plain_step
from fabella.config.optimizer import AdamW
from fabella.config.training import BFloat16, Float32, MaxSteps, TrainingConfig
from fabella.data.batches import Batch
from fabella.engine.device_jax import describe_devices, pick_devices
from fabella.engine.engine_jax import JaxEngine
from fabella.engine.measure.step_timer_jax import peak_flops
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights
from fabella.run_config.files import preset, preset_names
from fabella.run_config.run import RunConfig

PRECISIONS = {"float32": (Float32(), jnp.float32), "bf16": (BFloat16(), jnp.bfloat16)}


def names(config: ModelConfig) -> list[str]:
    """Who can take part: Fabella, a step written by hand where there is one, and the other engine."""
    return [name for name in ("fabella", peer_of(config), "fabella on torch") if name]


class Baseline:
    """A model in training with AdamW; batches are cut out of ids that never change. The step is one compiled piece."""

    def __init__(self, name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> None:
        """``shape``: windows, and tokens in each. Dropout is off. The first step compiles: see ``compile_seconds``."""
        self.name, self.shape = name, shape
        config = config.model_copy(update={"dropout": 0.0}) if "dropout" in type(config).model_fields else config
        self.parameters = count(config.parameters())
        picked, weights = pick_devices(device), initial_weights(config.parameters(), 1)
        if name == "fabella":
            self.engine = JaxEngine(_run(config, shape, precision), weights, picked)
        else:
            self.weights: Any = jax.device_put(weights, picked[0])
            optimizer, self.plain = plain_step(config)
            self.memory: Any = jax.device_put(optimizer.init(self.weights), picked[0])
        random = np.random.default_rng(1)
        ids = random.integers(0, config.vocab_size, 64 * shape[0] * shape[1]).astype(np.uint16)
        self.windows = np.lib.stride_tricks.sliding_window_view(ids, shape[1] + 1)
        self.starts = random.integers(0, len(ids) - shape[1] - 1, (64, shape[0]))
        self.steps = 0
        self.compile_seconds = 0.0

    def step(self) -> dict[str, float]:
        """Seconds of each part of one training step."""
        begin = time.perf_counter()
        chosen = self.windows[self.starts[self.steps % len(self.starts)]].astype(np.int32)
        cut = time.perf_counter()
        if self.name == "fabella":
            self.engine.step(Batch(chosen[:, :-1], chosen[:, 1:]), 1e-4).read()
            jax.block_until_ready(self.engine.weights)
        else:
            self.weights, self.memory, loss = self.plain(self.weights, self.memory, chosen)
            jax.block_until_ready((self.weights, float(loss)))
        end = time.perf_counter()
        if self.steps == 0:
            self.compile_seconds = end - cut
        self.steps += 1
        return {"data": cut - begin, "step": end - cut}


def _run(config: ModelConfig, shape: tuple[int, int], precision: str) -> RunConfig:
    """Some preset's run with this model, whose other settings do not matter here."""
    training = TrainingConfig(
        length=MaxSteps(max_steps=1), micro_batch_size=shape[0], precision=PRECISIONS[precision][0]
    )
    any_run = preset(preset_names()[0])
    return any_run.model_copy(update={"model": config, "training": training, "optimizer": AdamW(lr=1e-4)})


def peak(device: str, precision: str) -> float:
    """The machine's measured floating-point operations a second."""
    return peak_flops(pick_devices(device)[0], PRECISIONS[precision][1])


def set_threads(threads: int) -> None:
    """XLA takes the threads that the system gives the process; a number of them is not its to choose."""


def settings(device: str) -> dict[str, Any]:
    """What the measurement depends on, beside the machine."""
    return {"engine": "jax", "jax": jax.__version__, "device": describe_devices(pick_devices(device))}
