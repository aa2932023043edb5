"""The average of the weights of a training with PyTorch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config.optimizer import AverageConfig
from fabella.engine.distributed.strategy_torch import Strategy
from fabella.engine.weight_average import AverageRule


class WeightAverage:
    """Average of the trained weights in float32, distributed over the devices as they are."""

    def __init__(self, strategy: Strategy, parameters: Mapping[str, nn.Parameter], config: AverageConfig) -> None:
        """``parameters``: the trained ones; frozen parameters need no average."""
        self.strategy, self.rule = strategy, AverageRule.create(config)
        self.parameters = dict(parameters) if self.rule else {}
        self.tensors = {name: torch.zeros_like(parameter).detach() for name, parameter in self.parameters.items()}
        device = next(iter(parameters.values())).device
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        """Number of weights in the average, []. On the device, because only that knows whether a step was applied."""

    @torch.no_grad()
    def update(self, step: int, apply_update: Tensor) -> None:
        """Add the weights after ``step`` to the average where ``apply_update`` ([], bool) is True; no wait."""
        if self.rule is None or step <= self.rule.start:
            return
        share = (self.rule.warm_up / (self.rule.warm_up + self.count)).clamp(min=self.rule.min_share)
        share = torch.where(apply_update, share, 0.0)
        self.count += apply_update
        for average, weight in zip(self._local(self.tensors), self._local(self.parameters), strict=True):
            average.lerp_(weight, share)  # the share is on the device: no fused kernel for several tensors takes it

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the weights, one parameter at a time."""
        for average, weight in zip(self._local(self.tensors), self._local(self.parameters), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the full arrays on rank 0, an empty dict on every other rank and before the average begins."""
        return self.strategy.to_numpy(self.tensors) if int(self.count) else {}

    def scalars(self) -> dict[str, int | float]:
        """Return the numbers for a checkpoint. Waits for the device."""
        return self.rule.scalars(int(self.count)) if self.rule else {}

    @torch.no_grad()
    def restore(self, average: Mapping[str, NDArray[np.float32]], scalars: Mapping[str, int | float]) -> None:
        """Continue from what ``state`` and ``scalars`` returned, or begin again after another kind of average."""
        if self.rule is None:
            return
        count = self.rule.saved_count(average, scalars)
        self.count.fill_(count)
        for name, tensor in self.tensors.items():
            tensor.copy_(self.strategy.from_numpy(average[name], tensor) if count else torch.zeros_like(tensor))

    def _local(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.strategy.local_tensor(tensor) for tensor in tensors.values()]
