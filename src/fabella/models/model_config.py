"""Base of the ``model`` config section, which every family extends."""

from abc import abstractmethod

from pydantic import Field

from fabella.config.base import ConfigModel
from fabella.models.parameters import ParameterSpec


class ModelConfig(ConfigModel):
    """Base of every family's ``Config``."""

    family: str
    vocab_size: int = Field(ge=2, le=2**24, description="number of token ids")
    context_length: int = Field(ge=1, le=2**20, description="maximum number of tokens the model can attend to")

    @property
    def unlimited_context(self) -> bool:
        """Whether sequences may be longer than ``context_length`` (true of recurrent families)."""
        return False

    @abstractmethod
    def parameters(self) -> dict[str, ParameterSpec]:
        """Return the parameter table: every weight by name, in order from input to output."""
        raise NotImplementedError
