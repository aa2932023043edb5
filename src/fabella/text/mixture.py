"""Documents of several sources, drawn by weight in an order that its seed fixes."""

from collections.abc import Iterator, Sequence
from itertools import count

MASK = 2**64 - 1


def interleave(
    parts: Sequence[Iterator[str]], weights: Sequence[float], *, seed: int, until_all: bool
) -> Iterator[tuple[int, str]]:
    """(index of its part, document). Draw ``n`` depends on (seed, n) and on which parts are left, nothing else.

    Ends when the first part does, or, with ``until_all``, goes on with the others until every one has ended.
    """
    left = dict(enumerate(weights))
    total = sum(weights)
    for n in count():
        part = _drawn(left, total * uniform(seed, n))
        try:
            yield part, next(parts[part])
        except StopIteration:
            if not until_all or len(left) == 1:
                return
            total -= left.pop(part)


def _drawn(weights: dict[int, float], point: float) -> int:
    """The part on whose stretch of the line ``point`` lies, when every part is as long as its weight."""
    *before, last = weights
    for part in before:
        point -= weights[part]
        if point < 0:
            return part
    return last


def uniform(seed: int, n: int) -> float:
    """A number in [0, 1) that looks random: SplitMix64 (Steele, Lea & Flood 2014) of ``seed`` and ``n``."""
    z = (seed * 0xD1342543DE82EF95 + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) / 2**64
