"""Sampling parameters, and the random numbers that both engines sample with."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError, UsageError

# Name → (minimum, maximum, whether the minimum is allowed, hint).
_BOUNDS: dict[str, tuple[float, float, bool, str]] = {
    "temperature": (0.0, 100.0, True, "0 is greedy; 0.8 is usual"),
    "top_k": (0, 2**31 - 1, True, "0 keeps all tokens; 40 is usual"),
    "top_p": (0.0, 1.0, False, "1 keeps all tokens; 0.95 is usual"),
    "min_p": (0.0, 1.0, True, "0 keeps all tokens; 0.05 is usual"),
    "repetition_penalty": (0.01, 100.0, True, "1 disables it; 1.1 is usual"),
    "frequency_penalty": (-2.0, 2.0, True, "0 disables it; 0.5 is usual"),
    "presence_penalty": (-2.0, 2.0, True, "0 disables it; 0.5 is usual"),
    "seed": (0, 2**63 - 1, True, "use any non-negative integer"),
}

MAX_LOGIT_BIAS = 100.0
"""Largest absolute value of a logit bias, as in OpenAI's API; -100 excludes a token in practice."""
MIN_TEMPERATURE = 1e-37
"""Lowest temperature applied: anything lower is 0 as a float32, and equal logits would become 0 / 0."""

# Uniform numbers drawn at once: a call takes as long as forty numbers.
_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters, applied in the order of the fields.

    Top-k, top-p and min-p filter the probabilities after the temperature and always keep the most likely token. Tokens
    as likely as the last one kept are kept as well, so that the result does not depend on how an engine sorts.

    Raises UsageError for a value out of range.
    """

    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or completion
    (Keskar et al. 2019, arXiv 1909.05858); 0.01 to 100, 1 disables it."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time that the completion contains it; -2 to 2, 0 disables it.
    The prompt does not count. This and the next two are OpenAI's parameters."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of a token that the completion contains; -2 to 2, 0 disables it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and a number from -100 to 100 that is added to its logit."""
    temperature: float = 0.8
    """Divides the logits; 0 to 100, 0 is greedy and takes the lowest id among equals."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 disables it."""
    top_p: float = 0.95
    """Keep the fewest most likely tokens whose share of the remaining probability reaches this
    (Holtzman et al. 2020, arXiv 1904.09751); 0 to 1, 1 disables it."""
    min_p: float = 0.0
    """Drop tokens below this fraction of the top probability (Nguyen et al. 2024, arXiv 2407.01082); 0 disables it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "logit_bias":
                _check(field.name, getattr(self, field.name))
        for token, bias in self.logit_bias:
            _check_bias(token, bias)

    @property
    def adjusts_logits(self) -> bool:
        """True if penalties or biases are added to logits, see ``LogitAdjustments``."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)


class LogitAdjustments:
    """Numbers that are added to the logits of one sequence: logit biases less the frequency and presence penalties."""

    def __init__(self, sampling: SamplingParams, vocab_size: int) -> None:
        """Raises UsageError for a bias of an id outside the vocabulary."""
        self._sampling, self._biases = sampling, dict(sampling.logit_bias)
        self._counts: dict[int, int] = {}
        require_vocab_biases(sampling, vocab_size)

    @property
    def initial(self) -> dict[int, float]:
        """Adjustments by token id before the first token of the completion; 0 for all other ids."""
        return self._biases

    def append(self, token: int) -> float:
        """Count a token of the completion; return the adjustment of its logit from now on."""
        count = self._counts[token] = self._counts.get(token, 0) + 1
        penalty = count * self._sampling.frequency_penalty + self._sampling.presence_penalty
        return self._biases.get(token, 0.0) - penalty


def require_vocab_biases(sampling: SamplingParams, vocab_size: int) -> None:
    """Raise UsageError for a logit bias of an id that cannot be sampled."""
    outside = next((token for token, _ in sampling.logit_bias if token >= vocab_size), None)
    if outside is not None:
        raise UsageError(
            f"logit_bias has the token id {outside}, but the vocabulary has {vocab_size:,} ids.",
            hint=f"Use ids from 0 to {vocab_size - 1:,}.",
        )


def _check_bias(token: object, bias: object) -> None:
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise UsageError(f"logit_bias has the token id {token!r}.", hint="A token id is an integer from 0 up.")
    valid = isinstance(bias, int | float) and not isinstance(bias, bool) and abs(bias) <= MAX_LOGIT_BIAS
    if not valid:
        raise UsageError(
            f"logit_bias of token id {token} is {bias!r}.",
            hint=f"Use a number from -{MAX_LOGIT_BIAS:g} to {MAX_LOGIT_BIAS:g}.",
        )


def _check(name: str, value: object) -> None:
    low, high, closed, hint = _BOUNDS[name]
    kind = int if isinstance(low, int) else int | float
    if isinstance(value, bool) or not isinstance(value, kind):
        expected = "an integer" if kind is int else "a number"
        raise UsageError(f"{name} = {value!r} is not {expected}.", hint=f"{_sentence(hint)}")
    above_minimum = value >= low if closed else value > low
    if not (above_minimum and value <= high):
        rule = f"{'at least' if closed else 'more than'} {low:g} and at most {high:g}"
        raise UsageError(f"{name} = {value} is out of range: it must be {rule}.", hint=_sentence(hint))


def _sentence(hint: str) -> str:
    return f"{hint[0].upper()}{hint[1:]}."


def uniforms(seed: int, row: int, count: int) -> NDArray[np.float32]:
    """Return the random numbers in [0, 1) that sample the first ``count`` tokens of one sequence, [count].

    ``row`` is the number of the sequence among those of one prompt. Number ``i`` only depends on (seed, row, i): the
    batch, ``count`` and the engine do not change a sequence.
    """
    return _random(seed, row).random(count, dtype=np.float32)


def uniform_stream(seed: int, row: int) -> Iterator[float]:
    """Yield the numbers of ``uniforms`` one by one, without end."""
    random = _random(seed, row)  # checks the row now, not at the first number
    return (number for _ in repeat(None) for number in random.random(_BLOCK, dtype=np.float32).tolist())


def _random(seed: int, row: int) -> np.random.Generator:
    if not 0 <= row < 2**63:
        raise UsageError(
            f"row = {row} is not a valid sequence number.", hint="Number the sequences of one prompt from 0."
        )
    return np.random.Generator(np.random.Philox(key=(row << 64) | seed))


def unsampleable_error(row: int, largest: float) -> NumericsError:
    """Return the error for logits with NaN or +infinity, or with nothing but -infinity."""
    return NumericsError(
        f"Cannot sample from the logits of row {row}: their maximum is {largest}.",
        hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
    )
