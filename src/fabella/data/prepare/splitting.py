"""Train/validation split rules. Each depends only on the document, so every pass over the corpus agrees.

The validation split must be large enough to measure a loss: if the hash holds out less than 64 KiB, or less than a
tenth of a smaller text, the documents with the smallest hashes are held out until that is reached. If that would take
far too much, because there are few and long documents, the end of the longest one is held out instead.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.data.prepare.holdout import document_hash, in_holdout
from fabella.errors import DataError

MIN_HOLDOUT_BYTES = 64 * 2**10
"""Bytes of the validation split at least: about sixty sequences of 256 English BPE tokens."""
MIN_HOLDOUT_SHARE = 0.1
"""Share of a small text that is held out if it has less than ten times MIN_HOLDOUT_BYTES, 0 to 1."""
MAX_HOLDOUT_SHARE = 0.2
"""Share of the text, 0 to 1, that is not exceeded, nor twice the requested share, even for one document."""
MAX_INSPECTED_BYTES = 256 * 2**20
"""Bytes read to find enough held-out documents; beyond them, the rule does not change any more."""


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """Document, or part of one, with its split: ``held_out`` means validation."""

    text: str
    digest: bytes
    held_out: bool


class SplitRule(Protocol):
    """Rule that assigns documents to splits."""

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        """Yield the document with its split; two parts if the rule cuts it, nothing if it drops it."""
        ...

    def messages(self) -> Iterator[str]:
        """Yield sentences for the user about the split."""
        ...


class HashSplit(SplitRule):
    """Hold out a share of all distinct texts, by their hash."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        yield SplitDocument(text, digest, in_holdout(digest, self._fraction))

    def messages(self) -> Iterator[str]:
        yield f"held out for validation: {self._fraction:.3g} of all distinct documents, by the hash of their text"


class SmallestHashSplit(SplitRule):
    """Hold out the distinct texts with the smallest hashes, given as ``digests``."""

    def __init__(self, digests: frozenset[bytes], documents: int) -> None:
        self._digests, self._documents = digests, documents

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        yield SplitDocument(text, digest, digest in self._digests)

    def messages(self) -> Iterator[str]:
        yield (
            f"held out for validation: {len(self._digests):,} of {self._documents:,} distinct documents, those with "
            "the smallest hashes; a share by hash would have been too small to measure a loss"
        )


class TailSplit(SplitRule):
    """Hold out the end of the longest document: ``share`` of its characters."""

    def __init__(self, longest: bytes, share: float) -> None:
        self._longest, self._share = longest, share

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        if digest != self._longest:
            yield SplitDocument(text, digest, held_out=False)
            return
        cut = min(max(1, round(len(text) * (1 - self._share))), len(text) - 1)
        yield SplitDocument(text[:cut], document_hash(text[:cut]), held_out=False)
        yield SplitDocument(text[cut:], document_hash(text[cut:]), held_out=True)

    def messages(self) -> Iterator[str]:
        yield (
            f"held out for validation: the last {100 * self._share:.2g} % of the longest document; "
            "complete documents would have been too much or too little"
        )


class SourceSplit(SplitRule):
    """Validate on a separate source; documents that are also in it are not trained on."""

    def __init__(self, validation: Iterable[bytes], name: str) -> None:
        self._name = name
        # Eight bytes of each hash: a collision of two documents has a chance of documents / 2^64.
        self._digests = _sorted(validation)

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        number = np.uint64(int.from_bytes(digest[:8], "big"))
        at = int(np.searchsorted(self._digests, number))
        if at == len(self._digests) or self._digests[at] != number:
            yield SplitDocument(text, digest, held_out=False)

    def messages(self) -> Iterator[str]:
        yield f"validation source: {self._name}"


def _sorted(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    numbers = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), dtype=np.uint64)
    return np.unique(numbers)


def holdout_rule(documents: Iterable[str], fraction: float) -> SplitRule:
    """Return the rule that holds out ``fraction`` of ``documents``; reads no more than needed. Raises DataError."""
    distinct: dict[bytes, int] = {}
    read = training = held = 0
    for text in documents:
        digest, size = document_hash(text), len(text.encode())
        read += size
        if digest not in distinct:
            distinct[digest] = size
            if in_holdout(digest, fraction):
                held += size
            else:
                training += size
        large_enough = held >= MIN_HOLDOUT_BYTES or (held and read >= MAX_INSPECTED_BYTES)
        if large_enough and held <= max(2 * fraction, MAX_HOLDOUT_SHARE) * (held + training) and training:
            return HashSplit(fraction)
    return _small_text_rule(distinct, fraction)


def _small_text_rule(sizes: dict[bytes, int], fraction: float) -> SplitRule:
    """Return the rule for a small text, given as hash → bytes of all its distinct documents."""
    total = sum(sizes.values())
    if total < 2:
        raise DataError("The text needs at least two characters.", hint="Use more text.")
    target = max(fraction * total, min(MIN_HOLDOUT_BYTES, MIN_HOLDOUT_SHARE * total))
    limit = max(2 * target, MAX_HOLDOUT_SHARE * total)
    chosen: list[bytes] = []
    held = 0
    for digest in sorted(sizes):
        if held < target and held + sizes[digest] <= limit and len(chosen) < len(sizes) - 1:
            chosen.append(digest)
            held += sizes[digest]
    if held >= target / 2:
        return SmallestHashSplit(frozenset(chosen), len(sizes))
    longest = max(sizes, key=lambda digest: (sizes[digest], digest))
    return TailSplit(longest, min(target / sizes[longest], 1.0))
