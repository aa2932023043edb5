"""Weighted interleave of several sources, in an order fixed by a seed."""

from collections.abc import Iterator, Sequence
from itertools import count

from fabella.splitmix64 import GAMMA, splitmix64

SEED_FACTOR = 0xD1342543DE82EF95
"""Odd factor that keeps the counters of different seeds apart."""


def interleave(
    parts: Sequence[Iterator[str]], weights: Sequence[float], *, seed: int, until_all: bool
) -> Iterator[tuple[int, str]]:
    """Yield (index of the part, document). Draw ``n`` depends only on (seed, n) and on which parts are left.

    Ends with the first part that ends, or, with ``until_all``, when every part has ended.
    """
    left = dict(enumerate(weights))
    total = sum(weights)
    for n in count():
        part = _part_at(left, total * uniform(seed, n))
        try:
            yield part, next(parts[part])
        except StopIteration:
            if not until_all or len(left) == 1:
                return
            total -= left.pop(part)


def _part_at(weights: dict[int, float], point: float) -> int:
    """Return the part whose interval contains ``point``, where each part is an interval as long as its weight."""
    *before, last = weights
    for part in before:
        point -= weights[part]
        if point < 0:
            return part
    return last


def uniform(seed: int, n: int) -> float:
    """Return pseudo-random number ``n`` of ``seed``, in [0, 1)."""
    return splitmix64(seed * SEED_FACTOR + (n + 1) * GAMMA) / 2**64
