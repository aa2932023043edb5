"""On which side of the split each document falls. A rule looks at one document alone: any pass over the text agrees.

Enough must be held out to measure anything: where the hash of the texts holds out less than 64 KiB, or the tenth
part of a smaller text, the documents with the smallest hashes are held out until that is reached; a text of one
document gives its last part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.errors import DataError
from fabella.text.split import digest as digest_of
from fabella.text.split import is_held_out

# About sixty windows of 256 English BPE tokens.
LEAST_HELD_BYTES = 64 * 2**10
LEAST_HELD_SHARE = 0.1
# Looking further ahead than this for a held-out document changes nothing for a text of that size.
FARTHEST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Placed:
    """A document, or a part of one, on its side."""

    text: str
    digest: bytes
    held_out: bool


class Rule(Protocol):
    """How documents are split."""

    def place(self, text: str, digest: bytes) -> Iterator[Placed]:
        """The document on its side; in two parts, or not at all, where the rule says so."""
        ...

    def sentences(self) -> Iterator[str]:
        """What the user should know of how the split is made."""
        ...


class ByHash(Rule):
    """A share of all distinct texts, by their hash."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def place(self, text: str, digest: bytes) -> Iterator[Placed]:
        yield Placed(text, digest, is_held_out(digest, self._fraction))

    def sentences(self) -> Iterator[str]:
        yield f"held out for validation: {self._fraction:.3g} of all distinct documents, by the hash of their text"


class BySmallestHash(Rule):
    """The distinct texts with the smallest hashes, up to and including ``last``."""

    def __init__(self, last: bytes, held: int, documents: int) -> None:
        self._last, self._held, self._documents = last, held, documents

    def place(self, text: str, digest: bytes) -> Iterator[Placed]:
        yield Placed(text, digest, digest <= self._last)

    def sentences(self) -> Iterator[str]:
        yield (
            f"held out for validation: {self._held:,} of {self._documents:,} distinct documents, those with the "
            "smallest hashes; a share by hash would have been too little to measure"
        )


class ByPosition(Rule):
    """The last part of the only document there is."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def place(self, text: str, digest: bytes) -> Iterator[Placed]:
        wanted = min(LEAST_HELD_BYTES / max(len(text), 1), LEAST_HELD_SHARE)
        cut = min(max(1, round(len(text) * (1 - max(self._fraction, wanted)))), len(text) - 1)
        yield Placed(text[:cut], digest_of(text[:cut]), held_out=False)
        yield Placed(text[cut:], digest_of(text[cut:]), held_out=True)

    def sentences(self) -> Iterator[str]:
        yield "held out for validation: the last part of the text, which is a single document"


class Given(Rule):
    """A validation text of its own: what also stands in it is not trained on."""

    def __init__(self, validation: Iterable[bytes], name: str) -> None:
        self._name = name
        # Eight bytes of each digest: that two different documents share them happens once in 2⁶⁴ / documents texts.
        self._digests = _sorted(validation)

    def place(self, text: str, digest: bytes) -> Iterator[Placed]:
        number = np.uint64(int.from_bytes(digest[:8], "big"))
        at = int(np.searchsorted(self._digests, number))
        if at == len(self._digests) or self._digests[at] != number:
            yield Placed(text, digest, held_out=False)

    def sentences(self) -> Iterator[str]:
        yield f"validation text: {self._name}"


def _sorted(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    numbers = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), dtype=np.uint64)
    return np.unique(numbers)


def held_share(documents: Iterable[str], fraction: float) -> Rule:
    """The rule for holding out ``fraction`` of ``documents``; reads only as far as it must. Raises DataError."""
    distinct: dict[bytes, int] = {}
    read = learned = held = 0
    for text in documents:
        digest, size = digest_of(text), len(text.encode())
        read += size
        if digest not in distinct:
            distinct[digest] = size
            if is_held_out(digest, fraction):
                held += size
            else:
                learned += size
        if learned and (held >= LEAST_HELD_BYTES or (held and read >= FARTHEST_BYTES)):
            return ByHash(fraction)
    if len(distinct) < 2:
        return _by_position(distinct, fraction)
    return _by_smallest(distinct, fraction)


def _by_smallest(distinct: dict[bytes, int], fraction: float) -> Rule:
    total = sum(distinct.values())
    wanted = max(fraction * total, min(LEAST_HELD_BYTES, LEAST_HELD_SHARE * total))
    in_order = sorted(distinct)
    held = count = 0
    while count == 0 or (held < wanted and count < len(in_order) - 1):
        held += distinct[in_order[count]]
        count += 1
    return BySmallestHash(in_order[count - 1], count, len(in_order))


def _by_position(distinct: dict[bytes, int], fraction: float) -> Rule:
    if sum(distinct.values()) < 2:
        raise DataError("The text has no two characters to learn from.", fix="Bring more text.")
    return ByPosition(fraction)
