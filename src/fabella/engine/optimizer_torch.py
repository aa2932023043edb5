"""AdamW and Adam for PyTorch: built from the parameter table, and their memory as plain arrays."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config import Adam, AdamW
from fabella.engine.parallel_torch import Single
from fabella.models.parameters import Table

# Our neutral name of a moment → PyTorch's.
MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}


class Optimizer:
    """Adam's update with decoupled weight decay where the table says so; ``clip`` is a global gradient norm."""

    def __init__(self, parallel: Single, table: Table, section: AdamW | Adam) -> None:
        """``parallel``: the model, and how it lies on the devices."""
        self.parallel = parallel
        self.parameters: dict[str, nn.Parameter] = dict(parallel.model.named_parameters())
        self.clip = section.clip
        decay = section.weight_decay if isinstance(section, AdamW) else 0.0
        groups = [
            {"params": [p for n, p in self.parameters.items() if table[n].decay], "weight_decay": decay},
            {"params": [p for n, p in self.parameters.items() if not table[n].decay], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=section.lr,
            betas=section.betas,
            eps=section.eps,
            fused=True,
        )

    def step(self, lr: float, norm: Tensor) -> None:
        """Clip to ``norm`` (the global norm of the gradients, []) and update; does nothing where it is not finite.

        The decision is taken on the device, so that no step waits for it.
        """
        nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.found_inf = (~torch.isfinite(norm)).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.adam.step()

    def forget_gradients(self) -> None:
        """Free the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, NDArray[np.float32]]:
        """``first.NAME`` and ``second.NAME``; zeros before the first step."""
        return {
            f"{ours}.{name}": array
            for ours, theirs in MOMENTS.items()
            for name, array in self.parallel.whole(
                {n: self.adam.state[p].get(theirs, torch.zeros_like(p)) for n, p in self.parameters.items()}
            ).items()
        }

    def restore(self, moments: Mapping[str, NDArray[np.float32]], steps: int) -> None:
        """Take over moments as ``moments()`` gave them, after ``steps`` updates."""
        for name, parameter in self.parameters.items():
            self.adam.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **{
                    theirs: self.parallel.placed(moments[f"{ours}.{name}"], parameter)
                    for ours, theirs in MOMENTS.items()
                },
            }
