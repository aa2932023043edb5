"""Timed training steps of the JAX engine and of a step without Fabella; the interface of fabella.benchmark."""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.models_jax import peer_of, plain_step
from fabella.benchmark import step_parts_jax as fabella_parts
from fabella.benchmark.step_parts_jax import Baseline, peak, set_threads, settings
from fabella.engine.device_jax import pick_devices
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights

__all__ = ["create_baseline", "names", "peak", "set_threads", "settings"]


def names(config: ModelConfig) -> list[str]:
    """Return the JAX engine, a step in plain JAX if the family has one, and the PyTorch engine."""
    return [name for name in ("fabella", peer_of(config), "fabella on torch") if name]


def create_baseline(name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> Baseline:
    """Create ``fabella`` or ``plain jax``; the latter always computes in float32."""
    if name == "fabella":
        return fabella_parts.create_baseline(name, config, shape, precision, device)
    return Baseline(name, PlainStep(config, device), config, shape)


class PlainStep:
    """Training step in plain JAX and optax."""

    def __init__(self, config: ModelConfig, device: str) -> None:
        picked = pick_devices(device)[0]
        self._weights: Any = jax.device_put(initial_weights(config.parameters(), 1), picked)
        optimizer, self._step = plain_step(config)
        self._optimizer_state: Any = jax.device_put(optimizer.init(self._weights), picked)

    def __call__(self, sequences: NDArray[np.int32]) -> None:
        """Take one step on token ids [B, T + 1]."""
        self._weights, self._optimizer_state, loss = self._step(self._weights, self._optimizer_state, sequences)
        jax.block_until_ready((self._weights, float(loss)))
