"""Training steps taken apart: data, forward, backward and optimizer, of Fabella's model or a peer's, on one batch."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fabella.benchmark.peers.models_torch import Loss, build_peer, peers_of
from fabella.engine.device_torch import describe_device, pick_device
from fabella.engine.engine_torch import build
from fabella.engine.measure.peak_flops_torch import measure_peak_flops
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights

PARTS = ("data", "forward", "backward", "optimizer")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def names(config: ModelConfig) -> list[str]:
    """Who can take part: Fabella, and others that have this family, too, where they are installed."""
    return ["fabella", *peers_of(config)]


class Baseline:
    """A model in training with fused AdamW; batches are cut out of ids that never change."""

    def __init__(self, name: str, config: ModelConfig, shape: tuple[int, int], precision: str, device: str) -> None:
        """``name``: ``fabella`` or a package, with `` compiled`` behind it where torch.compile is meant.

        ``shape``: windows, and tokens in each. Dropout is off, as no two libraries have it in the same places.
        """
        torch.manual_seed(1)
        self.name, self.shape, self.device = name, shape, pick_device(device)
        self.precision = PRECISIONS[precision]
        who = name.removesuffix(" compiled")
        config = config.model_copy(update={"dropout": 0.0}) if "dropout" in type(config).model_fields else config
        model, self.loss = _fabella(config, self.device) if who == "fabella" else build_peer(config, who)
        self.model: Any = model
        self.model.to(self.device).train()
        for part in self._parts_to_compile(who) if name != who else []:
            part.compile()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if who == "fabella" or config.family != "mingru":  # the MinGRU peer has one head, not one a layer
            assert self.parameters == count(config.parameters()), f"{name} is not the same architecture"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        random = np.random.default_rng(1)
        self.ids = random.integers(0, config.vocab_size, 64 * shape[0] * shape[1]).astype(np.uint16)
        self.starts = random.integers(0, len(self.ids) - shape[1] - 1, (64, shape[0]))
        self.steps = 0

    def _parts_to_compile(self, who: str) -> list[Any]:
        """Fabella compiles each block, which is the same code; others are compiled whole, as their users do."""
        return list(self.model.blocks) if who == "fabella" else [self.model]

    def step(self) -> dict[str, float]:
        """Seconds of each part of one training step."""
        clock = [self._now()]
        windows = np.lib.stride_tricks.sliding_window_view(self.ids, self.shape[1] + 1)
        chosen = windows[self.starts[self.steps % len(self.starts)]].astype(np.int64)
        tokens = torch.from_numpy(chosen).to(self.device)
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
        """The time when the device has done all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _fabella(config: ModelConfig, device: torch.device) -> tuple[nn.Module, Loss]:
    model: Any = build(config, initial_weights(config.parameters(), seed=1), device)

    def loss(tokens: Tensor) -> Tensor:
        return model.loss(tokens[:, :-1], tokens[:, 1:])

    return model, loss


def peak(device: str, precision: str) -> float:
    """The machine's measured floating-point operations a second."""
    return measure_peak_flops(pick_device(device), PRECISIONS[precision])


def set_threads(threads: int) -> None:
    """Let PyTorch use so many threads of the CPU; 0: as many as it likes."""
    if threads:
        torch.set_num_threads(threads)


def settings(device: str) -> dict[str, Any]:
    """What the measurement depends on, beside the machine."""
    return {
        "device": describe_device(pick_device(device)),
        "threads": torch.get_num_threads(),
        "processor_capability": torch.backends.cpu.get_cpu_capability(),
    }
