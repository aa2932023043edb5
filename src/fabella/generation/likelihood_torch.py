"""How likely a model finds the ids of a text."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor


class LanguageModel(Protocol):
    """What is needed of a model; see ``fabella.models``."""

    def parameters(self) -> Iterator[Tensor]: ...

    def losses(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]: ...


@torch.inference_mode()
def losses(model: LanguageModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    """Negative log-likelihood of every target in nats, [B T]; 0 where the target is IGNORE."""
    device = next(model.parameters()).device
    ids, wanted = (torch.from_numpy(array.astype(np.int64)).to(device) for array in (tokens, targets))
    return model.losses(ids, wanted).float().cpu().numpy()
