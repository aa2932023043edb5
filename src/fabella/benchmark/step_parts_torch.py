"""Timed parts of a training step in PyTorch: data, forward pass, backward pass and optimizer, always on one batch."""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fabella.engine.build_model_torch import build
from fabella.engine.cpu.cpu_training_torch import prepare_cpu_training
from fabella.engine.device_torch import compute_here, describe_device, pick_device
from fabella.engine.matmul_torch import choose_matmul, matmul_context
from fabella.engine.measure.peak_flops_torch import measure_peak_flops
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights

PARTS = ("data", "forward", "backward", "optimizer")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
COMPILED, BF16 = " compiled", " bf16"
"""Ends of the name of a baseline that is compiled, and of one that computes in bf16 whatever the precision."""

Loss = Callable[[Tensor], Tensor]
"""Mean loss of predicting each token from those before it, from token ids [B, T + 1]."""


def names(config: ModelConfig) -> list[str]:
    """Return the baselines of a model: Fabella alone."""
    del config
    return ["fabella"]


def create_baseline(name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> "Baseline":
    """Create the baseline ``fabella``, with `` bf16`` and `` compiled`` (torch.compile of every block) in its name."""
    _, precision = split_precision(name, precision)
    model, loss = build_fabella(without_dropout(config), pick_device(device))
    baseline = Baseline(name, model, loss, config, (shape, precision, device))
    baseline.context = fabella_context(config, baseline.device, precision)
    if name.endswith(COMPILED):
        for block in baseline.model.blocks:  # every block is the same code
            block.compile()
    assert baseline.parameters == count(config.parameters()), "the model differs from its parameter table"
    return baseline


def split_precision(name: str, precision: str) -> tuple[str, str]:
    """Return the name of a baseline without its variants, and its precision: ``precision`` unless the name has one."""
    base = name.removesuffix(COMPILED)
    return base.removesuffix(BF16), "bf16" if base.endswith(BF16) else precision


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
        self.context: Callable[[], AbstractContextManager[object]] = nullcontext
        """What forward and backward pass run in."""
        self.starts = random.integers(0, len(self.ids) - self.shape[1] - 1, (64, self.shape[0]))
        self.steps = 0

    def step(self) -> dict[str, float]:
        """Take one training step and return the seconds of each part."""
        clock = [self._now()]
        sequences = np.lib.stride_tricks.sliding_window_view(self.ids, self.shape[1] + 1)
        rows = sequences[self.starts[self.steps % len(self.starts)]].astype(np.int64)
        tokens = torch.from_numpy(rows).to(self.device)
        clock.append(self._now())
        with self.context():
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

    def loss(tokens: Tensor) -> Tensor:
        return model.loss(tokens[:, :-1], tokens[:, 1:])

    return model, loss


def fabella_context(
    config: ModelConfig, device: torch.device, precision: str
) -> Callable[[], AbstractContextManager[object]]:
    """Return what a training has on this device: on a CPU, kernels and the fastest float32 products."""
    cpu = prepare_cpu_training(device, compute_here)  # memory is kept for the peers in this process as well
    exact = device.type == "cpu" and precision == "float32"
    way = choose_matmul(config.parameters()).float32 if exact else "default"

    @contextmanager
    def context() -> Generator[None]:
        with matmul_context(way), cpu.context():
            yield

    return context


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
