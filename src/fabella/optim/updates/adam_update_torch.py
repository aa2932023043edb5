"""Adam's update with decoupled weight decay, by PyTorch's fused AdamW.

The class ``torch.optim.AdamW`` calls the same function, but its first use imports PyTorch's compiler, which takes every
training a second or more.
"""

from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.interface_torch import TorchOptimizer


class Moments(NamedTuple):
    """What AdamW keeps of one parameter: both moments, shaped like it, and the number of updates ([], float32)."""

    first: Tensor
    second: Tensor
    updates: Tensor

    @classmethod
    def zeros(cls, parameter: Tensor) -> "Moments":
        """Return the state before the first update."""
        updates = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return cls(torch.zeros_like(parameter), torch.zeros_like(parameter), updates)


@final
class AdamUpdate(TorchOptimizer):
    """AdamW with a learning-rate factor and a weight decay per parameter; without any decay it is Adam."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        settings: Mapping[str, ParamSettings],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """``settings``: of every name in ``parameters``; other names are ignored."""
        self.parameters = dict(parameters)
        self.betas, self.eps = betas, eps
        self.groups = {
            shared: [name for name in parameters if settings[name] == shared]
            for shared in dict.fromkeys(settings[name] for name in parameters)
        }
        self.moments: dict[str, Moments] = {}

    @torch.no_grad()
    def step(self, lr: float, apply_update: Tensor) -> None:
        # The fused kernel reads ``found_inf`` on the device and skips the update: no wait, no copy.
        found_inf = (~apply_update).float()
        for settings, names in self.groups.items():
            gradients = {name: grad for name in names if (grad := self.parameters[name].grad) is not None}
            moments = [self._moments_of(name) for name in gradients]
            adam(
                [self.parameters[name] for name in gradients],
                list(gradients.values()),
                [of.first for of in moments],
                [of.second for of in moments],
                [],
                [of.updates for of in moments],
                fused=True,
                found_inf=found_inf,
                decoupled_weight_decay=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=lr * settings.lr_factor,
                weight_decay=settings.weight_decay,
                eps=self.eps,
                maximize=False,
            )

    def _moments_of(self, name: str) -> Moments:
        """Return the moments of a parameter; before its first update they are zeros."""
        if name not in self.moments:
            self.moments[name] = Moments.zeros(self.parameters[name])
        return self.moments[name]

    def state(self) -> dict[str, Tensor]:
        moments = {name: self._moments_of(name) for name in self.parameters}
        first = {f"first.{name}": of.first for name, of in moments.items()}
        return first | {f"second.{name}": of.second for name, of in moments.items()}

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        for name, parameter in self.parameters.items():
            count = torch.tensor(float(updates), device=parameter.device)
            self.moments[name] = Moments(state[f"first.{name}"], state[f"second.{name}"], count)

    def updates(self) -> int:
        return max((int(of.updates) for of in self.moments.values()), default=0)
