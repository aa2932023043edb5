"""The optimizer of a training with PyTorch: gradient clipping, the average of the weights, the state as arrays."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config.optimizer import OptimizerConfig
from fabella.engine.distributed.strategy_torch import Strategy
from fabella.engine.weight_average_torch import WeightAverage
from fabella.models.parameters import ParameterTable
from fabella.optim.registry import engine_module, state_spec
from fabella.optim.updates.interface_torch import TensorLayout, TorchOptimizer


class Optimizer:
    """The config's optimizer as ``rule``, with gradient clipping, the weights' average, and its state as arrays."""

    def __init__(
        self, strategy: Strategy, table: ParameterTable, config: OptimizerConfig, matmul_dtype: torch.dtype
    ) -> None:
        """``table``: the parameters to update; all others are frozen. ``matmul_dtype``: as in TensorLayout."""
        self.strategy = strategy
        parameters: dict[str, nn.Parameter] = dict(strategy.model.named_parameters())
        self.parameters = {name: parameter for name, parameter in parameters.items() if name in table}
        self.max_grad_norm = config.max_grad_norm
        self.state_spec = state_spec(table, config)
        self.state_names = tuple(self.state_spec)
        layout = TensorLayout(strategy.full_tensor, strategy.distribute, matmul_dtype)
        create = engine_module(config.kind, "torch").create_optimizer
        self.rule: TorchOptimizer = create(self.parameters, table, config, layout)
        self.average = WeightAverage(strategy, self.parameters, config.average)

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients, whose global norm is ``norm`` [], so that it is at most ``max_grad_norm``."""
        nn.utils.clip_grads_with_norm_(self.parameters.values(), self.max_grad_norm, norm)

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the full arrays named ``state_names`` on rank 0, and an empty dict on every other rank."""
        tensors = self.rule.state()
        return self.strategy.to_numpy({name: tensors[name] for name in self.state_names})

    def updates(self) -> int:
        """Return the number of applied updates; skipped steps do not count."""
        return self.rule.updates()

    def reset(self) -> None:
        """Return to the state before the first update."""
        self.restore({name: np.zeros(shape, np.float32) for name, shape in self.state_spec.items()}, 0)

    def restore(self, state: Mapping[str, NDArray[np.float32]], updates: int) -> None:
        """Load arrays that ``state()`` returned after ``updates`` applied updates."""
        like = {name: self.parameters[name.partition(".")[2]] for name in self.state_names}
        tensors = {name: self.strategy.from_numpy(state[name], like[name]) for name in self.state_names}
        with torch.no_grad():
            self.rule.load_state(tensors, updates)
