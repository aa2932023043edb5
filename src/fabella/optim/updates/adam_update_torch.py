"""Adam's update with decoupled weight decay, by PyTorch's fused AdamW."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.interface_torch import TorchOptimizer

# Name of a moment in the state → its name in torch.optim.AdamW.
MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
LR_FACTOR = "lr_factor"
"""Key in a parameter group of torch.optim: the factor on the step's learning rate."""


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
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for name, parameter in parameters.items() if settings[name] == shared],
                "weight_decay": shared.weight_decay,
                LR_FACTOR: shared.lr_factor,
            }
            for shared in dict.fromkeys(settings[name] for name in parameters)
        ]
        # The learning rate is set at every step. Muon may leave no parameters to AdamW.
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True) if groups else None

    def step(self, lr: float, apply_update: Tensor) -> None:
        if self.adamw is None:
            return
        for group in self.adamw.param_groups:
            group["lr"] = lr * group[LR_FACTOR]
        # The fused kernel reads ``found_inf`` on the device and skips the update: no wait, no copy.
        self.adamw.found_inf = (~apply_update).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()

    @property
    def _states(self) -> dict[Tensor, dict[str, Any]]:
        return self.adamw.state if self.adamw else {}

    def state(self) -> dict[str, Tensor]:
        return {
            f"{moment}.{name}": self._states.get(parameter, {}).get(theirs, torch.zeros_like(parameter))
            for moment, theirs in MOMENTS.items()
            for name, parameter in self.parameters.items()
        }

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        for name, parameter in self.parameters.items():
            self._states[parameter] = {
                "step": torch.tensor(float(updates), device=parameter.device),
                **{theirs: state[f"{moment}.{name}"] for moment, theirs in MOMENTS.items()},
            }

    def updates(self) -> int:
        counts = [int(state["step"]) for state in self._states.values() if "step" in state]
        return max(counts, default=0)
