"""On which side of the split each document falls. A rule looks at one document alone: any pass over the text agrees.

Enough must be held out to measure anything: where the hash of the texts holds out less than 64 KiB, or the tenth
part of a smaller text, the documents with the smallest hashes are held out until that is reached. Where that would
take far too much, because there are few and long documents, the longest gives its last part instead.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.data.prepare.holdout import document_hash as digest_of
from fabella.data.prepare.holdout import in_holdout
from fabella.errors import DataError

# About sixty windows of 256 English BPE tokens.
LEAST_HELD_BYTES = 64 * 2**10
LEAST_HELD_SHARE = 0.1
# More than this, and more than twice what is wanted, is not taken from training, even if it is a whole document.
MOST_HELD_SHARE = 0.2
# Looking further ahead than this for a held-out document changes nothing for a text of that size.
FARTHEST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """A document, or a part of one, on its side."""

    text: str
    digest: bytes
    held_out: bool


class SplitRule(Protocol):
    """How documents are split."""

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        """The document on its side; in two parts, or not at all, where the rule says so."""
        ...

    def sentences(self) -> Iterator[str]:
        """What the user should know of how the split is made."""
        ...


class HashSplit(SplitRule):
    """A share of all distinct texts, by their hash."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        yield SplitDocument(text, digest, in_holdout(digest, self._fraction))

    def sentences(self) -> Iterator[str]:
        yield f"held out for validation: {self._fraction:.3g} of all distinct documents, by the hash of their text"


class SmallestHashSplit(SplitRule):
    """The distinct texts of ``digests``: those with the smallest hashes that do not take too much."""

    def __init__(self, digests: frozenset[bytes], documents: int) -> None:
        self._digests, self._documents = digests, documents

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        yield SplitDocument(text, digest, digest in self._digests)

    def sentences(self) -> Iterator[str]:
        yield (
            f"held out for validation: {len(self._digests):,} of {self._documents:,} distinct documents, those with "
            "the smallest hashes; a share by hash would have been too little to measure"
        )


class TailSplit(SplitRule):
    """The last part of the longest document: ``share`` of its characters."""

    def __init__(self, longest: bytes, share: float) -> None:
        self._longest, self._share = longest, share

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        if digest != self._longest:
            yield SplitDocument(text, digest, held_out=False)
            return
        cut = min(max(1, round(len(text) * (1 - self._share))), len(text) - 1)
        yield SplitDocument(text[:cut], digest_of(text[:cut]), held_out=False)
        yield SplitDocument(text[cut:], digest_of(text[cut:]), held_out=True)

    def sentences(self) -> Iterator[str]:
        yield (
            f"held out for validation: the last {100 * self._share:.2g} % of the longest document; "
            "whole ones would have been too much or too little"
        )


class Given(SplitRule):
    """A validation text of its own: what also stands in it is not trained on."""

    def __init__(self, validation: Iterable[bytes], name: str) -> None:
        self._name = name
        # Eight bytes of each digest: that two different documents share them happens once in 2⁶⁴ / documents texts.
        self._digests = _sorted(validation)

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        number = np.uint64(int.from_bytes(digest[:8], "big"))
        at = int(np.searchsorted(self._digests, number))
        if at == len(self._digests) or self._digests[at] != number:
            yield SplitDocument(text, digest, held_out=False)

    def sentences(self) -> Iterator[str]:
        yield f"validation text: {self._name}"


def _sorted(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    numbers = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), dtype=np.uint64)
    return np.unique(numbers)


def holdout_rule(documents: Iterable[str], fraction: float) -> SplitRule:
    """The rule for holding out ``fraction`` of ``documents``; reads only as far as it must. Raises DataError."""
    distinct: dict[bytes, int] = {}
    read = learned = held = 0
    for text in documents:
        digest, size = digest_of(text), len(text.encode())
        read += size
        if digest not in distinct:
            distinct[digest] = size
            if in_holdout(digest, fraction):
                held += size
            else:
                learned += size
        enough = held >= LEAST_HELD_BYTES or (held and read >= FARTHEST_BYTES)
        if enough and held <= max(2 * fraction, MOST_HELD_SHARE) * (held + learned) and learned:
            return HashSplit(fraction)
    return _of_few(distinct, fraction)


def _of_few(sizes: dict[bytes, int], fraction: float) -> SplitRule:
    """The rule for all distinct documents of a small text, given as digest → bytes."""
    total = sum(sizes.values())
    if total < 2:
        raise DataError("The text has no two characters to learn from.", hint="Bring more text.")
    wanted = max(fraction * total, min(LEAST_HELD_BYTES, LEAST_HELD_SHARE * total))
    most = max(2 * wanted, MOST_HELD_SHARE * total)
    chosen: list[bytes] = []
    held = 0
    for digest in sorted(sizes):
        if held < wanted and held + sizes[digest] <= most and len(chosen) < len(sizes) - 1:
            chosen.append(digest)
            held += sizes[digest]
    if held >= wanted / 2:
        return SmallestHashSplit(frozenset(chosen), len(sizes))
    longest = max(sizes, key=lambda digest: (sizes[digest], digest))
    return TailSplit(longest, min(wanted / sizes[longest], 1.0))
