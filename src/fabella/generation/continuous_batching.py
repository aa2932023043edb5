"""Continuous batching: sequences join and leave the batch between decode steps. The contract of both engines."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError, UsageError
from fabella.generation.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """One sequence to generate."""

    ids: NDArray[np.int32]
    """Token ids of the prompt; at least one."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    row: int = 0
    """Number of this sequence among those of one prompt, see ``sampling.uniforms``."""
    num_prefix_tokens: int = 0
    """Number of ids at the start of the prompt that are not text (EOS); they are not penalized as repetitions."""
    log_probabilities: bool = False
    """Compute the log-probability of each sampled token."""
    alternatives: int = 0
    """Number of most likely tokens to return with each sampled token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One more token of a sequence."""

    request: int
    """Number that ``ContinuousBatcher.add`` returned."""
    token: int
    log_probability: float = float("nan")
    """Log-probability of ``token`` in nats, before temperature and filters; NaN unless requested."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Most likely token ids with their log-probabilities in nats, in descending order."""


class ContinuousBatcher(Protocol):
    """Batch of sequences that are decoded one token per step. Sequences do not affect each other.

    To be used from one thread at a time. The caller decides when a sequence has ended, and removes it.
    """

    @property
    def free(self) -> int:
        """Number of sequences that can be added now."""
        ...

    def add(self, request: SequenceRequest) -> int:
        """Add a sequence, which takes part from the next step on; return its number.

        Raises UsageError if the batch is full, the prompt is empty or a logit bias has an id outside the vocabulary,
        TokenizerError for ids of the prompt outside it.
        """
        ...

    def step(self) -> list[SampledToken]:
        """Prefill some tokens of the waiting prompts, and sample a token for every sequence whose prompt is complete.

        The work is bounded: a long prompt is prefilled over several steps, so that it does not stall the others. The
        result is empty if no prompt is complete yet. Raises NumericsError if logits are not finite; all sequences of
        the batch are then lost.
        """
        ...

    def remove(self, number: int) -> None:
        """Remove a sequence from the batch at any time. Raises KeyError for an unknown number."""
        ...


def require_readable(ids: NDArray[np.int32], vocab_size: int) -> None:
    """Raise UsageError for a prompt without tokens, TokenizerError for an id outside the model's vocabulary."""
    if not len(ids):
        raise UsageError("The prompt has no tokens.", hint="Give a prompt of at least one token.")
    invalid = ids[(ids < 0) | (ids >= vocab_size)]
    if invalid.size:
        raise TokenizerError(
            f"Token id {invalid[0]} of the prompt is outside the model's vocabulary of {vocab_size:,} ids.",
            hint="Encode the prompt with the tokenizer of the run.",
        )
