"""Loss of a model on held-out text."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.config.scoring import ScoringRule, validation_rule
from fabella.data.dataset import Split, TokenizedDataset
from fabella.data.sequences import SequenceDataset
from fabella.engine.engine import Engine
from fabella.generation.likelihood import exp
from fabella.storage import format_exp


@dataclass(frozen=True, slots=True)
class EvalLoss:
    """Mean loss on held-out text."""

    loss: float
    """Nats per token"""
    bits_per_byte: float
    tokens: int
    """Number of predicted targets"""
    rule: str
    """Name of the ScoringRule: ``line-256`` for packed sequences of 256 tokens"""

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens with the same loss; infinite if float64 overflows."""
        return exp(self.loss)

    def __str__(self) -> str:
        perplexity = format_exp(self.loss)
        return f"loss {self.loss:.4f}, perplexity {perplexity}, {self.bits_per_byte:.4f} bits per byte ({self.rule})"


def bits_per_nat(split: Split) -> float:
    """Return the bits per byte of learned text at a loss of one nat per token. They compare different tokenizers."""
    return split.learned_tokens / max(split.learned_bytes, 1) / math.log(2)


def fixed_subset(sequences: SequenceDataset, count: int) -> NDArray[np.int64]:
    """Return the indices of ``count`` sequences spread evenly over all; the same at every call."""
    return np.unique(np.linspace(0, len(sequences) - 1, num=min(count, len(sequences))).round().astype(np.int64))


def validate(
    engine: Engine,
    sequences: SequenceDataset,
    split: Split,
    indices: NDArray[np.int64],
    batch_size: int,
    *,
    rule: ScoringRule,
) -> EvalLoss:
    """Return the mean loss on the sequences ``indices``, summed in float64, so that the order hardly matters."""
    nats, tokens = 0.0, 0
    for start in range(0, len(indices), batch_size):
        batch = sequences.batch(indices[start : start + batch_size])
        nats += float(engine.losses(batch).sum(dtype=np.float64))
        tokens += batch.num_targets
    loss = nats / max(tokens, 1)
    return EvalLoss(loss, loss * bits_per_nat(split), tokens, rule.name)


class ValidationSplit:
    """The validation split of a dataset, cut into sequences, and the loss of an engine on it."""

    def __init__(self, engine: Engine, dataset: TokenizedDataset, sequences: Packed | Padded, batch_size: int) -> None:
        """``batch_size``: sequences of one forward pass."""
        self.engine, self.split, self.batch_size = engine, dataset.validation, batch_size
        self.rule = validation_rule(sequences)
        self.sequences = SequenceDataset(
            self.split, sequences, dataset.tokenizer.eos_id, bos_id=dataset.tokenizer.bos_id
        )

    def loss(self, num_sequences: int = 0) -> EvalLoss:
        """Return the loss on a fixed subset of ``num_sequences`` sequences; 0 evaluates all."""
        indices = fixed_subset(self.sequences, num_sequences or len(self.sequences))
        return validate(self.engine, self.sequences, self.split, indices, self.batch_size, rule=self.rule)
