"""How likely a model finds the ids of a text."""

import numpy as np
from numpy.typing import NDArray

from fabella.engine.engine_jax import InUse
from fabella.engine.step_jax import take_losses
from fabella.models import IGNORE


def losses(model: InUse, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.float32]:
    """Negative log-likelihood of every target in nats, [B T]; 0 where the target is IGNORE."""
    rows, time = tokens.shape
    # Texts of a few lengths: each is compiled once. What is added is not looked at by what comes before it.
    length = 1 << (time - 1).bit_length()
    if not model.config.unbounded:
        length = max(time, min(length, model.config.context))
    spare = ((0, 0), (0, length - time))
    wanted = np.pad(targets, spare, constant_values=IGNORE)
    return np.array(take_losses(model.model, model.compute, model.weights, np.pad(tokens, spare), wanted))[:rows, :time]
