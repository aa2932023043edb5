"""Interface of every PyTorch model."""

from collections.abc import Iterator
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from fabella.models.model_config import ModelConfig


class LanguageModel(Protocol):
    """Model contract; ``fabella.models`` describes each method. ``state`` is opaque to the caller."""

    config: ModelConfig

    def parameters(self) -> Iterator[Tensor]: ...

    def __call__(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]: ...

    def loss(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]: ...

    def token_losses(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]: ...

    def init_state(self, batch_size: int, capacity: int) -> Any: ...

    def decode(self, tokens: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B V"], Any]: ...
