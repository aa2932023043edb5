"""AdamW, Adam and Muon for PyTorch: built from the parameter table, and their memory as plain arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config.optimizer import Adam, AdamW, Muon
from fabella.engine.distributed.strategy_torch import Strategy
from fabella.engine.optim.muon_torch import MuonGroup
from fabella.engine.optim.param_groups import param_settings
from fabella.models.parameters import ParameterTable, block_matrices

# Our neutral name of a moment → PyTorch's.
MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
LR_FACTOR = "lr_factor"
"""In a group of PyTorch's: times the learning rate of the step."""


class Optimizer:
    """Adam's update, each weight with the rate and the decay of its group; ``clip`` is a global gradient norm.

    With ``optimizer.kind=muon`` the matrices inside the blocks are Muon's instead.
    """

    def __init__(self, parallel: Strategy, table: ParameterTable, section: AdamW | Adam | Muon) -> None:
        """``parallel``: the model, and how it lies on the devices."""
        self.parallel = parallel
        self.parameters: dict[str, nn.Parameter] = dict(parallel.model.named_parameters())
        self.clip = section.max_grad_norm
        muon = section if isinstance(section, Muon) else None
        settings = param_settings(table, section)
        matrices = {name: self.parameters[name] for name in block_matrices(table)} if muon else {}
        self.muons = MuonGroup(parallel, matrices, muon, settings) if muon else None
        rest = [name for name in self.parameters if name not in matrices]
        groups: list[dict[str, Any]] = [
            {
                "params": [self.parameters[name] for name in rest if settings[name] == own],
                "weight_decay": own.weight_decay,
                LR_FACTOR: own.lr_factor,
            }
            for own in dict.fromkeys(settings[name] for name in rest)
        ]
        self.adam = torch.optim.AdamW(
            groups,
            lr=section.lr,
            betas=section.betas,
            eps=section.eps,
            fused=True,
        )

    def step(self, lr: float, norm: Tensor, taken: Tensor) -> None:
        """Clip to ``norm`` (the global norm of the gradients, []) and update where ``taken`` ([], bool), else not.

        The decision is taken on the device, so that no step waits for it.
        """
        nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
        for group in self.adam.param_groups:
            group["lr"] = lr * group[LR_FACTOR]
        self.adam.found_inf = (~taken).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.adam.step()
        if self.muons:
            self.muons.step(lr, taken)

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def names(self) -> list[str]:
        """Of the moments: ``first.NAME`` of every weight, ``second.NAME`` of all that are not Muon's."""
        return [f"{ours}.{name}" for ours in MOMENTS for name in self.parameters if self._keeps(ours, name)]

    def _keeps(self, ours: str, name: str) -> bool:
        return ours == "first" or self.muons is None or name not in self.muons.parameters

    def moments(self) -> dict[str, NDArray[np.float32]]:
        """The arrays of ``names()``; zeros before the first step."""
        found: dict[str, NDArray[np.float32]] = {}
        for ours in MOMENTS:
            tensors = {name: self._moment(ours, name) for name in self.parameters if self._keeps(ours, name)}
            found |= {f"{ours}.{name}": array for name, array in self.parallel.to_numpy(tensors).items()}
        return found

    def _moment(self, ours: str, name: str) -> Tensor:
        if self.muons is not None and name in self.muons.parameters:
            return self.muons.momentum(name)
        parameter = self.parameters[name]
        return self.adam.state[parameter].get(MOMENTS[ours], torch.zeros_like(parameter))

    def updates(self) -> int:
        """Steps that were taken, as Adam's bias correction counts them: without those that were not finite."""
        counts = [int(memory["step"]) for memory in self.adam.state.values() if "step" in memory]
        return max(counts, default=0)

    def restore(self, moments: Mapping[str, NDArray[np.float32]], steps: int) -> None:
        """Take over moments as ``moments()`` gave them, after ``steps`` updates."""
        for name, parameter in self.parameters.items():
            placed = {
                ours: self.parallel.from_numpy(moments[f"{ours}.{name}"], parameter)
                for ours in MOMENTS
                if self._keeps(ours, name)
            }
            if self.muons is not None and name in self.muons.parameters:
                self.muons.momenta[name] = placed["first"]
                continue
            self.adam.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **{MOMENTS[ours]: tensor for ours, tensor in placed.items()},
            }
