"""Muon for the matrices inside the blocks (Jordan et al. 2024), whether they lie whole on a device or in shards."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fabella.config.optimizer import Muon
from fabella.engine.distributed.strategy_torch import Strategy
from fabella.engine.optim.param_groups import ParamSettings

MOMENTUM = "momentum_buffer"


class MuonGroup:
    """Takes the steps of some matrices, and keeps the momentum of each.

    PyTorch's Muon makes their steps orthogonal by five Newton–Schulz iterations in bfloat16, on every device and in
    every precision of training; weights and momentum are float32 all the same. Orthogonal is a matter of the whole
    matrix: one in shards is put together on every process, and each of them computes the same. There is room for one
    such matrix at a time, not for all.
    """

    def __init__(
        self,
        parallel: Strategy,
        parameters: Mapping[str, nn.Parameter],
        section: Muon,
        settings: Mapping[str, ParamSettings],
    ) -> None:
        """``parameters``: by name, as ``settings``; ``parallel``: how they lie on the devices."""
        self.parallel, self.parameters, self.section = parallel, dict(parameters), section
        self.settings = settings
        self.momenta: dict[str, Tensor] = {}

    def momentum(self, name: str) -> Tensor:
        """Lies on the devices as the matrix does; zeros before the first step."""
        return self.momenta.get(name, torch.zeros_like(self.parameters[name]))

    @torch.no_grad()
    def step(self, lr: float, taken: Tensor) -> None:
        """One step of every matrix where ``taken`` ([], bool); else none, decided on the device.

        Muon has no ``found_inf``, as the fused AdamW has: its step is computed, and not taken over.
        """
        if taken.device.type == "cpu" and not bool(taken):
            return
        for name, parameter in self.parameters.items():
            momentum = self.momenta[name] = self.momentum(name)
            before = [self.parallel.full_tensor(tensor) for tensor in (parameter, momentum)]
            after = self._after(name, before[0], before[1], self.parallel.full_tensor(_gradient(parameter)), lr)
            for tensor, old, new in zip((parameter, momentum), before, after, strict=True):
                tensor.copy_(self.parallel.distribute(torch.where(taken, new, old), tensor))

    def _after(self, name: str, matrix: Tensor, momentum: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Matrix and momentum after a step; those given stay as they are."""
        own = self.settings[name]
        whole = nn.Parameter(matrix.clone())
        whole.grad = gradient
        muon = torch.optim.Muon(
            [whole],
            lr=lr * own.lr_factor,
            momentum=self.section.momentum,
            weight_decay=own.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        muon.state[whole][MOMENTUM] = momentum.clone()
        muon.step()
        return whole.detach(), muon.state[whole][MOMENTUM]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every matrix of a block takes part in the loss"
    return parameter.grad
