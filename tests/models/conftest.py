"""The fixture ``family``: a test that takes it runs once for each family of the package, also for new ones."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module, family_names


@dataclass(frozen=True)
class Family:
    """A family with its tiny config."""

    name: str
    config: ModelConfig

    def empty(self, config: ModelConfig | None = None) -> nn.Module:
        """Return the network on the meta device, without memory for its weights."""
        model = importlib.import_module(f"fabella.models.{self.name}_torch").Model
        with torch.device("meta"):
            return model(config or self.config)

    def model(self, seed: int = 1, config: ModelConfig | None = None) -> Any:
        """Return the network with its initial weights, in evaluation mode."""
        model, table = self.empty(config), (config or self.config).parameters()
        weights = {name: torch.from_numpy(array) for name, array in initial_weights(table, seed).items()}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def tokens(self, batch: int, time: int, seed: int = 1) -> Tensor:
        return torch.randint(self.config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def families_with_twins() -> list[str]:
    """Return the families that are implemented for both engines."""
    return [name for name in family_names() if importlib.util.find_spec(f"fabella.models.{name}_jax")]


@pytest.fixture(params=family_names())
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param, family_module(request.param).Config.tiny())
