"""Muon for PyTorch."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from fabella.models.parameters import ParameterTable, block_matrices
from fabella.optim.muon import Config, param_settings
from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.adam_update_torch import AdamUpdate
from fabella.optim.updates.interface_torch import TensorLayout, TorchOptimizer
from fabella.optim.updates.orthogonalize_torch import orthogonalize

MAX_BATCH_VALUES = 2**24
"""Values of the matrices that are orthogonalized in one batch: 64 MB in float32, on every rank."""


def create_optimizer(
    parameters: Mapping[str, nn.Parameter], table: ParameterTable, config: Config, layout: TensorLayout
) -> "MuonWithAdamW":
    """Return the optimizer of ``parameters``, which are named in ``table``."""
    settings = param_settings(table, config)
    matrices = {name: parameters[name] for name in block_matrices(table)}
    others = {name: parameter for name, parameter in parameters.items() if name not in matrices}
    return MuonWithAdamW(
        MuonUpdate(matrices, settings, momentum=config.momentum, layout=layout),
        AdamUpdate(others, settings, betas=config.betas, eps=config.eps),
    )


@final
class MuonWithAdamW(TorchOptimizer):
    """Muon for the matrices inside the blocks and AdamW for all other parameters."""

    def __init__(self, muon: "MuonUpdate", adamw: AdamUpdate) -> None:
        self.muon, self.adamw = muon, adamw

    def step(self, lr: float, apply_update: Tensor) -> None:
        """Update all matrices, those of equal shape in one batch, where ``apply_update`` ([], bool) is True."""
        self.adamw.step(lr, apply_update)
        self.muon.step(lr, apply_update)

    def state(self) -> dict[str, Tensor]:
        return self.muon.state() | self.adamw.state()

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        self.muon.load_state(state)
        self.adamw.load_state(state, updates)

    def updates(self) -> int:
        return self.adamw.updates()


@final
class MuonUpdate:
    """Momentum, orthogonalization and weight decay of some matrices.

    Orthogonal is a property of a full matrix: of a sharded one, the ranks gather the update, and each of them computes
    the same. Weights and momentum stay sharded.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        settings: Mapping[str, ParamSettings],
        *,
        momentum: float,
        layout: TensorLayout,
    ) -> None:
        """``settings``: of every name in ``parameters``; other names are ignored. ``momentum`` from 0 to below 1."""
        self.parameters, self.settings = dict(parameters), settings
        self.momentum, self.layout = momentum, layout
        self.momenta: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float, apply_update: Tensor) -> None:
        """Update all matrices, those of equal shape in one batch, where ``apply_update`` ([], bool) is True."""
        for names in self._batches():
            updates = [self.layout.full_tensor(self._direction(name, apply_update)) for name in names]
            for name, update in zip(names, self._orthogonalize(updates), strict=True):
                self._apply(name, update.float(), lr, apply_update)

    def _orthogonalize(self, updates: list[Tensor]) -> Tensor:
        return orthogonalize(torch.stack(updates), self.layout.matmul_dtype)

    def _batches(self) -> Iterator[list[str]]:
        """Yield the names of matrices of the same shape, as many at a time as MAX_BATCH_VALUES allows."""
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in self.parameters.items():
            by_shape.setdefault(tuple(parameter.shape), []).append(name)
        for shape, names in by_shape.items():
            size = max(1, MAX_BATCH_VALUES // math.prod(shape))
            yield from (names[start : start + size] for start in range(0, len(names), size))

    def _direction(self, name: str, apply_update: Tensor) -> Tensor:
        """Update the momentum of one matrix. Return the Nesterov direction, distributed like the matrix."""
        gradient = self.parameters[name].grad
        assert gradient is not None, "every matrix of a block takes part in the loss"
        momentum = self.momenta[name] = self._momentum(name)
        # Not ``lerp``, which DTensor does not have.
        new = momentum * self.momentum + gradient * (1.0 - self.momentum)
        _copy_where(apply_update, momentum, new)
        return gradient * (1.0 - self.momentum) + new * self.momentum

    def _apply(self, name: str, update: Tensor, lr: float, apply_update: Tensor) -> None:
        """Decay one matrix and add its orthogonal ``update`` [R C], scaled to the size of an update of AdamW."""
        parameter, settings = self.parameters[name], self.settings[name]
        lr *= settings.lr_factor
        adamw_scale = 0.2 * math.sqrt(max(parameter.shape))
        decayed = parameter * (1.0 - lr * settings.weight_decay)
        _copy_where(apply_update, parameter, decayed - self.layout.distribute(update, parameter) * (lr * adamw_scale))

    def _momentum(self, name: str) -> Tensor:
        return self.momenta.get(name, torch.zeros_like(self.parameters[name]))

    def state(self) -> dict[str, Tensor]:
        """Return ``first.NAME``: the momentum of every matrix, distributed like it; zeros before the first step."""
        return {f"first.{name}": self._momentum(name) for name in self.parameters}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the momentum of every matrix."""
        self.momenta = {name: state[f"first.{name}"] for name in self.parameters}


def _copy_where(condition: Tensor, target: Tensor, new: Tensor) -> None:
    """Copy ``new`` into ``target`` where ``condition`` [] is True, decided on the device."""
    local_target, local_new = _local(target), _local(new)
    local_target.copy_(torch.where(condition, local_new, local_target))


def _local(tensor: Any) -> Tensor:
    """Return this rank's part of a distributed tensor, and any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
