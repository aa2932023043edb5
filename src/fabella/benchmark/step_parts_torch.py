"""Timed parts of a training step in PyTorch: data, forward pass, backward pass and optimizer, always on one batch."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fabella.engine.build_model_torch import build
from fabella.engine.cpu.cpu_training_torch import prepare_cpu_training
from fabella.engine.device_torch import compute_here, describe_device, pick_device
from fabella.engine.measure.peak_flops_torch import measure_peak_flops
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights

PARTS = ("data", "forward", "backward", "optimizer")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}

Loss = Callable[[Tensor], Tensor]
"""Mean loss of predicting each token from those before it, from token ids [B, T + 1]."""


def names(config: ModelConfig) -> list[str]:
    """Return the baselines of a model: Fabella alone."""
    del config
    return ["fabella"]


def create_baseline(name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> "Baseline":
    """Create the baseline ``fabella``, or ``fabella compiled`` for torch.compile of every block."""
    model, loss = build_fabella(without_dropout(config), pick_device(device))
    baseline = Baseline(name, model, loss, config, (shape, precision, device))
    if name.endswith(" compiled"):
        for block in baseline.model.blocks:  # every block is the same code
            block.compile()
    assert baseline.parameters == count(config.parameters()), "the model differs from its parameter table"
    return baseline


class Baseline:
    """Model trained with fused AdamW on sequences cut from random token ids that are the same for every baseline."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        loss: Loss,
        config: ModelConfig,
        settings: tuple[tuple[int, int], str, str],
    ) -> None:
        """``settings``: (sequences, tokens each), precision, device."""
        self.name, self.loss = name, loss
        self.shape, precision, device = settings
        self.device, self.precision = pick_device(device), PRECISIONS[precision]
        self.model: Any = model
        self.model.to(self.device).train()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        random = np.random.default_rng(1)
        self.ids = random.integers(0, config.vocab_size, 64 * self.shape[0] * self.shape[1]).astype(np.uint16)
        self.starts = random.integers(0, len(self.ids) - self.shape[1] - 1, (64, self.shape[0]))
        self.steps = 0

    def step(self) -> dict[str, float]:
        """Take one training step and return the seconds of each part."""
        clock = [self._now()]
        sequences = np.lib.stride_tricks.sliding_window_view(self.ids, self.shape[1] + 1)
        rows = sequences[self.starts[self.steps % len(self.starts)]].astype(np.int64)
        tokens = torch.from_numpy(rows).to(self.device)
        clock.append(self._now())
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            loss = self.loss(tokens)
        clock.append(self._now())
        loss.backward()
        clock.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clock.append(self._now())
        self.steps += 1
        return {part: after - before for part, before, after in zip(PARTS, clock, clock[1:], strict=False)}

    def _now(self) -> float:
        """Return the time at which the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def without_dropout(config: ModelConfig) -> ModelConfig:
    """Return ``config`` with dropout 0, because no two libraries apply it in the same places."""
    return config.model_copy(update={"dropout": 0.0}) if "dropout" in type(config).model_fields else config


def build_fabella(config: ModelConfig, device: torch.device) -> tuple[nn.Module, Loss]:
    """Build Fabella's own model with its first weights, and its loss."""
    torch.manual_seed(1)
    model: Any = build(config, initial_weights(config.parameters(), seed=1), device)
    cpu = prepare_cpu_training(device, compute_here)  # memory is kept for the peers in this process as well

    def loss(tokens: Tensor) -> Tensor:
        with cpu.context():
            return model.loss(tokens[:, :-1], tokens[:, 1:])

    return model, loss


def peak(device: str, precision: str) -> float:
    """Return the measured peak of the machine's matrix products, in FLOP/s."""
    return measure_peak_flops(pick_device(device), PRECISIONS[precision])


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of PyTorch; 0 keeps its default."""
    if threads:
        torch.set_num_threads(threads)


def settings(device: str) -> dict[str, Any]:
    """Return the settings of PyTorch that a result depends on."""
    return {
        "device": describe_device(pick_device(device)),
        "threads": torch.get_num_threads(),
        "processor_capability": torch.backends.cpu.get_cpu_capability(),
    }
