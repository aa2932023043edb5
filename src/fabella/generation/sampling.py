"""How the next id is chosen from a model's logits: the settings, and the random numbers that both engines use."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError, UsageError

# Name → (lowest, highest, whether the lowest itself is allowed, what to write instead).
_BOUNDS: dict[str, tuple[float, float, bool, str]] = {
    "temperature": (0.0, 100.0, True, "0 always takes the most likely token; 0.8 is usual"),
    "top_k": (0, 2**31 - 1, True, "0 keeps all tokens; 40 is usual"),
    "top_p": (0.0, 1.0, False, "1 keeps all tokens; 0.95 is usual"),
    "min_p": (0.0, 1.0, True, "0 keeps all tokens; 0.05 is usual"),
    "repetition_penalty": (0.01, 100.0, True, "1 is no penalty; 1.1 is usual"),
    "seed": (0, 2**63 - 1, True, "any whole number gives a text of its own, always the same"),
}

MIN_TEMPERATURE = 1e-37
"""Any lower temperature is no float32 above 0, and would turn equal logits into 0 / 0."""

# Numbers drawn at once: a draw takes as long as forty of its numbers.
_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Settings of one choice after another. Steps are applied in the order of the fields.

    Cuts look at the probabilities after the temperature, and every cut keeps the most likely id. Ids that are
    exactly as likely as the last one kept are kept too, so that no cut depends on how an engine sorts.

    Raises UsageError, naming the setting, its value and its bounds.
    """

    repetition_penalty: float = 1.0
    """Logits of ids that the text already holds are divided (positive) or multiplied (negative) by it
    (Keskar et al. 2019, arXiv 1909.05858); prompt and told text both count."""
    temperature: float = 0.8
    """Logits are divided by it; 0 takes the most likely id, the lowest of equals."""
    top_k: int = 0
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float = 0.95
    """Of those, keep the fewest most likely ids that hold this share of their probability
    (Holtzman et al. 2020, arXiv 1904.09751); 1 keeps all."""
    min_p: float = 0.0
    """Keep ids at least this many times as likely as the most likely one (Nguyen et al. 2024, arXiv 2407.01082)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))


def _check(name: str, value: object) -> None:
    low, high, closed, hint = _BOUNDS[name]
    kind = int if isinstance(low, int) else int | float
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} = {value!r} is not {wanted}.", hint=f"{_sentence(hint)}")
    above = value >= low if closed else value > low
    if not (above and value <= high):
        rule = f"{'at least' if closed else 'more than'} {low:g} and at most {high:g}"
        raise UsageError(f"{name} = {value} is out of range: it must be {rule}.", hint=_sentence(hint))


def _sentence(hint: str) -> str:
    return f"{hint[0].upper()}{hint[1:]}."


def uniforms(seed: int, row: int, count: int) -> NDArray[np.float32]:
    """The random numbers in [0, 1) that choose the first ``count`` ids of one text, [count].

    ``row`` tells apart the texts told from one prompt. Number ``i`` depends on (seed, row, i) alone: neither the
    neighbours in a batch, nor its size, nor ``count``, nor the engine change a text.
    """
    return _random(seed, row).random(count, dtype=np.float32)


def uniform_stream(seed: int, row: int) -> Iterator[float]:
    """The same numbers, as many as are asked for."""
    random = _random(seed, row)  # the row is looked at now, not when the first number is asked for
    return (number for _ in repeat(None) for number in random.random(_BLOCK, dtype=np.float32).tolist())


def _random(seed: int, row: int) -> np.random.Generator:
    if not 0 <= row < 2**63:
        raise UsageError(f"row = {row} is no number of a text.", hint="Count the texts of one prompt from 0.")
    return np.random.Generator(np.random.Philox(key=(row << 64) | seed))


def unsampleable_error(row: int, largest: float) -> NumericsError:
    """What is told of logits that hold NaN or +infinity, or nothing but -infinity."""
    return NumericsError(
        f"The logits of row {row} cannot be sampled from: their largest is {largest}.",
        hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
    )
