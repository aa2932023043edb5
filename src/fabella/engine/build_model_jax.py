"""Build a family's JAX network, and load it with given weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.engine.activations import model_output
from fabella.engine.activations_jax import record
from fabella.engine.compile.compile_cache_jax import use_compile_cache
from fabella.engine.device_jax import pick_devices
from fabella.errors import CheckpointError
from fabella.models.model_config import ModelConfig
from fabella.models.nn.layers_jax import Params
from fabella.models.registry import network_module

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network with its weights, in the form that generation and evaluation take."""

    model: Any
    weights: dict[str, Array]
    compute: Any = jnp.float32

    @property
    def config(self) -> ModelConfig:
        """Return the model's config."""
        return self.model.config

    @property
    def network(self) -> Params:
        """Return the parameters that the model's functions take."""
        return Params(self.weights, compute=self.compute)

    def __call__(self, tokens: Any, *, output_hidden_states: bool = False, output_attentions: bool = False) -> Any:
        """Return logits [B T V] for ids [B T]; with an option, a ModelOutput with what it asks for."""
        if not output_hidden_states and not output_attentions:
            return self.model.forward(self.network, jnp.asarray(tokens))
        return model_output(record(self, tokens), hidden_states=output_hidden_states, attentions=output_attentions)


def load_model(config: ModelConfig, weights: Arrays, device: str = "auto") -> LoadedModel:
    """Return the family's network with ``weights``. Raises CheckpointError if they do not fit."""
    require_fit(config, weights)
    picked = pick_devices(device)[0]
    return LoadedModel(
        build(config), {name: jax.device_put(np.array(array), picked) for name, array in weights.items()}
    )


def build(config: ModelConfig) -> Any:
    """Return the family's ``Model``. Raises ConfigError for a family without a JAX implementation."""
    use_compile_cache()
    return network_module(config, "jax").Model(config)


def require_fit(config: ModelConfig, weights: Arrays) -> None:
    """Raise CheckpointError unless names and shapes of ``weights`` equal those of the parameter table."""
    expected = {name: parameter.shape for name, parameter in config.parameters().items()}
    actual = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != actual:
        differences = sorted(expected.items() ^ actual.items())
        raise CheckpointError(f"Weights do not fit the model. The first that differ: {differences[:5]}.")
