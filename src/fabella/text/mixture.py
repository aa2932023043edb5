"""Parts of a mixture, and their interleave, in which each part has its share in units of any size."""

from collections.abc import Callable, Iterator, Sequence

from fabella.config.data import FilesSource, HubSource, MixtureSource, Source, StorybookSource

Leaf = FilesSource | HubSource | StorybookSource


def flatten_mixture(source: Source, weight: float = 1.0) -> list[tuple[float, Leaf]]:
    """Return (share, source) for each source of a nested mixture; the shares sum to ``weight``."""
    if not isinstance(source, MixtureSource):
        return [(weight, source)]
    total = sum(part.weight for part in source.parts)
    return [leaf for part in source.parts for leaf in flatten_mixture(part.source, weight * part.weight / total)]


class WeightedRoundRobin:
    """Choose the part that is furthest behind its share: deficit round robin (Shreedhar & Varghese 1995).

    No part is ahead of its share by more than its largest item, nor behind by more than those of all other parts.
    """

    def __init__(self, parts: int) -> None:
        self.credits = [0.0] * parts
        """Units that each part may still use before it has its share; the sum is 0."""

    def choose(self, weights: Sequence[float]) -> int:
        """Return the part to use next, of those with a weight above 0; the first of equal ones."""
        return max(
            (part for part, weight in enumerate(weights) if weight > 0),
            key=lambda part: (self.credits[part], weights[part]),
        )

    def charge(self, part: int, units: int, weights: Sequence[float]) -> None:
        """Record that ``part`` was used for ``units`` units under ``weights``, which sum to 1."""
        for other, weight in enumerate(weights):
            self.credits[other] += weight * units
        self.credits[part] -= units


def interleave(
    parts: Sequence[Iterator[str]], weights: Sequence[float], size_of: Callable[[str], int]
) -> Iterator[tuple[int, str]]:
    """Yield (index of the part, document), until every part has ended; those that are left keep their proportions.

    ``size_of`` rebalance the units of a document that the weights count: 1, or its bytes.
    """
    balance = WeightedRoundRobin(len(parts))
    left = list(weights)
    while total := sum(left):
        if left.count(0.0) == len(left) - 1:  # nothing to choose
            part = next(number for number, weight in enumerate(left) if weight)
            yield from ((part, text) for text in parts[part])
            return
        shares = [weight / total for weight in left]
        part = balance.choose(shares)
        text = next(parts[part], None)
        if text is None:
            left[part] = 0.0
            continue
        balance.charge(part, size_of(text), shares)
        yield part, text
