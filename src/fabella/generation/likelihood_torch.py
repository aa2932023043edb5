"""Per-token log-likelihood of token ids under a PyTorch model."""

import numpy as np
import torch
from numpy.typing import NDArray

from fabella.models.nn.language_model_torch import LanguageModel


@torch.inference_mode()
def token_losses(model: LanguageModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the negative log-likelihood of every target in nats, [B T]; 0 where the target is IGNORE."""
    device = next(model.parameters()).device
    token_ids, target_ids = (torch.from_numpy(array.astype(np.int64)).to(device) for array in (tokens, targets))
    return model.token_losses(token_ids, target_ids).float().cpu().numpy()
