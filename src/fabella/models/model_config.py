"""The config section that every family extends."""

from abc import abstractmethod

from pydantic import Field

from fabella.config.base import ConfigModel
from fabella.models.parameters import ParameterSpec


class ModelConfig(ConfigModel):
    """What every family's ``Config`` has. ``parameters()`` is the family's one table of weights."""

    family: str
    vocab_size: int = Field(ge=2, le=2**24, description="ids the embedding has rows for")
    context_length: int = Field(ge=1, le=2**20, description="longest text, in tokens, that the model can look back on")

    @property
    def unlimited_context(self) -> bool:
        """Whether a text may be longer than ``context`` without harm (true of recurrent families)."""
        return False

    @abstractmethod
    def parameters(self) -> dict[str, ParameterSpec]:
        """Name → shape, initialisation, decay, in the order of the network from input to output."""
        raise NotImplementedError
