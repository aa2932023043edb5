"""Texts that come and go while others are told: what is asked for and what is answered, the same for both engines."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError, UsageError
from fabella.generation.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """A text to be told."""

    ids: NDArray[np.int32]
    """The prompt, at least one id"""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    row: int = 0
    """Tells apart the texts of one prompt; see ``sampling.uniforms``."""
    opening: int = 0
    """The first ids of the prompt that are no text, and no repetition"""
    log_probabilities: bool = False
    """Whether each chosen id comes with its log-probability"""
    alternatives: int = 0
    """How many of the likeliest ids come with each chosen one"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One more id of a text."""

    request: int
    """The number that ``add`` gave"""
    token: int
    log_probability: float = float("nan")
    """Of ``token`` among all ids, in nats, by the model alone: before temperature and cuts; NaN where not asked for"""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log-probabilities, the likeliest first"""


class ContinuousBatcher(Protocol):
    """Places for texts that are told side by side. A text neither knows nor changes its neighbours.

    One thread at a time. Whoever asks decides when a text has ended: by ``remove``.
    """

    @property
    def free(self) -> int:
        """How many more texts can be added now."""
        ...

    def add(self, request: SequenceRequest) -> int:
        """The number of a new text, which is read and told from the next step on.

        Raises UsageError where no slot is free or the prompt is empty, TokenizerError for ids beyond the vocabulary.
        """
        ...

    def step(self) -> list[SampledToken]:
        """Read some more of the prompts that wait, and choose an id for every text that has been read.

        The work is bounded: a long prompt takes several steps and delays the others in each by no more than its share.
        Empty where nothing could be chosen yet. Raises NumericsError where the model gives no numbers; of what was
        being told then nothing is kept.
        """
        ...

    def remove(self, number: int) -> None:
        """Free the slot of a text, told to its end or not, at once. Raises KeyError where there is none."""
        ...


def require_readable(ids: NDArray[np.int32], vocab_size: int) -> None:
    """Raises UsageError for a prompt without tokens, TokenizerError for ids that the model does not know."""
    if not len(ids):
        raise UsageError("A prompt has no tokens, and a model needs one to go on from.", hint="Give its first words.")
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise TokenizerError(
            f"id {wrong[0]} of the prompt is beyond the model's vocabulary of {vocab_size:,} ids.",
            hint="Encode the prompt with the tokenizer of the run.",
        )
