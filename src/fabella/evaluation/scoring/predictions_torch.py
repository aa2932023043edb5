"""Predictions of a PyTorch model."""

import numpy as np
import torch
from numpy.typing import NDArray

from fabella.evaluation.scoring.predictions import Predictions
from fabella.models.nn.language_model_torch import LanguageModel


@torch.inference_mode()
def predictions(model: LanguageModel, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
    """Return the predictions of all targets, [B T]. The logits of the whole batch are in memory at once."""
    device = next(model.parameters()).device
    ids, labels = (torch.from_numpy(array.astype(np.int64)).to(device) for array in (tokens, targets))
    logits = model(ids).float()
    chosen = logits.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    top, best = logits.max(dim=2)
    # In place: the logits are not needed again.
    total = logits.sub_(top.unsqueeze(2)).exp_().sum(dim=2).log_().add_(top)
    return Predictions(
        nats=(total - chosen).cpu().numpy(),
        confidence=(top - total).exp_().cpu().numpy(),
        correct=(best == labels).cpu().numpy(),
    )
