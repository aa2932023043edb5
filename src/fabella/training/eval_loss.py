"""How well a model predicts text it has not learned from."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import Split
from fabella.data.sequences import SequenceDataset
from fabella.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class EvalLoss:
    """``loss`` in nats a token; ``tokens`` targets were predicted."""

    loss: float
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss): of how many equally likely tokens the choice would be as hard."""
        return math.exp(min(self.loss, 700.0))

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, perplexity {self.perplexity:.2f}, {self.bits_per_byte:.4f} bits per byte"


def bits_per_nat(split: Split) -> float:
    """Bits per byte of text that one nat per token is worth: what makes tokenizers comparable."""
    return split.tokens / split.bytes / math.log(2)


def fixed_subset(windows: SequenceDataset, count: int) -> NDArray[np.int64]:
    """``count`` windows spread evenly over all, always the same."""
    return np.unique(np.linspace(0, len(windows) - 1, num=min(count, len(windows))).round().astype(np.int64))


def validate(engine: Engine, windows: SequenceDataset, split: Split, chosen: NDArray[np.int64], batch: int) -> EvalLoss:
    """Score on the ``chosen`` windows, ``batch`` at a time; sums are in float64, so their order hardly matters."""
    nats, tokens = 0.0, 0
    for start in range(0, len(chosen), batch):
        part = windows.batch(chosen[start : start + batch])
        nats += float(engine.losses(part).sum(dtype=np.float64))
        tokens += part.num_targets
    loss = nats / max(tokens, 1)
    return EvalLoss(loss, loss * bits_per_nat(split), tokens)
