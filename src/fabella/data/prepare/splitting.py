"""Train/validation split rules. Each depends only on the document, so every pass over the corpus agrees.

The validation split must be large enough to measure a loss, and of the same kinds of text as the training split. If
the hash holds out less than 64 KiB, or less than a tenth of a smaller text, the short documents with the smallest
hashes are held out, and the end of each long one.
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
MIN_DOCUMENTS_TO_HASH = 100
"""Distinct documents from which on their hashes hold out nearly the requested share of them."""
LONG_DOCUMENT = 2**18
"""Characters from which on a document is split rather than held out or trained on as a whole."""
REPEATED_CHARACTERS = 300
"""Characters at the start of a held-out end that are searched in the text before it."""
MIN_CUT_BYTES = 2000
"""Bytes of a document from which on its end can be held out; a shorter one is held out as a whole or not at all."""
MIN_EQUAL_DOCUMENTS = 2
"""Equal documents beyond which a text is refused because every validation text would be trained on."""
MAX_INSPECTED_BYTES = 256 * 2**20
"""Bytes read to find enough held-out documents; beyond them, the rule does not change any more."""


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """Document, or part of one, with its split: ``held_out`` means validation."""

    text: str
    digest: bytes
    held_out: bool
    part: int = 0
    """Part of a mixture that it belongs to."""


class SplitRule(Protocol):
    """Rule that assigns documents to splits."""

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        """Yield the document with its split; two parts if the rule cuts it, nothing if it drops it."""
        ...

    def messages(self) -> Iterator[str]:
        """Yield sentences for the user about the split."""
        ...


class HashSplit(SplitRule):
    """Hold out a share of all distinct texts, by their hash, and the same share of the end of each very long one."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._cut = False

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        if len(text) < LONG_DOCUMENT:
            yield SplitDocument(text, digest, in_holdout(digest, self._fraction))
            return
        self._cut = True
        yield from _split_end(text, self._fraction)

    def messages(self) -> Iterator[str]:
        share = f"{100 * self._fraction:.3g} %"
        ends = f", and the last {share} of those longer than {LONG_DOCUMENT:,} characters" if self._cut else ""
        yield f"held out for validation: about {share} of the documents, by the hash of their text{ends}"


class SmallTextSplit(SplitRule):
    """Hold out some documents as a whole, given by their ``digests``, and the ends of long ones.

    ``ends``: digest → share of the characters that is held out. ``documents``: number of distinct documents.
    """

    def __init__(self, digests: frozenset[bytes], ends: dict[bytes, float], documents: int) -> None:
        self._digests, self._ends, self._documents = digests, ends, documents
        self._repeated = False

    def assign(self, text: str, digest: bytes) -> Iterator[SplitDocument]:
        if digest not in self._ends:
            yield SplitDocument(text, digest, digest in self._digests)
            return
        training, held_out = _split_end(text, self._ends[digest])
        self._repeated |= held_out.text[:REPEATED_CHARACTERS].strip() in training.text
        yield from (training, held_out)

    def messages(self) -> Iterator[str]:
        parts: list[str] = []
        if self._digests:
            parts.append(f"{len(self._digests):,} of {self._documents:,} distinct documents, chosen by their hashes")
        if self._ends:
            share = f"the last {100 * max(self._ends.values()):.3g} %"
            if len(self._ends) == 1:
                what = "the longest document" if self._documents > 1 else "the document"
            else:
                what = f"the {len(self._ends):,} longest documents"
            parts.append(f"{share} of {what}")
        yield f"held out for validation: {' and '.join(parts)}"
        if self._repeated:
            yield "the held-out text repeats earlier text: its loss will be too low; give other text with --validation"


def _split_end(text: str, share: float) -> Iterator[SplitDocument]:
    """Yield the training part of a document, and its end of ``share`` (0 to 1) of the characters for validation."""
    cut = _cut_near(text, round(len(text) * (1 - share)))
    yield SplitDocument(text[:cut], document_hash(text[:cut]), held_out=False)
    yield SplitDocument(text[cut:], document_hash(text[cut:]), held_out=True)


def _cut_near(text: str, at: int) -> int:
    """Return a position near ``at`` where a paragraph, else a line, else a word begins; both parts have text."""
    at = min(max(1, at), len(text) - 1)
    reach = max(len(text) // 100, min(2000, (len(text) - at) // 4))
    for border in ("\n\n", "\n", " "):
        found = text.rfind(border, max(at - reach, 0), at)
        if found > 0 and text[:found].strip() and text[found + len(border) :].strip():
            return found + len(border)
    return at


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
    read = training = held = documents_read = 0
    for text in documents:
        documents_read += 1
        digest, size = document_hash(text), len(text.encode())
        read += size
        if digest not in distinct:
            distinct[digest] = size
            if len(text) >= LONG_DOCUMENT:
                held += int(fraction * size)
                training += size - int(fraction * size)
            elif in_holdout(digest, fraction):
                held += size
            else:
                training += size
        if len(distinct) < MIN_DOCUMENTS_TO_HASH:
            continue
        large_enough = held >= MIN_HOLDOUT_BYTES or (held and read >= MAX_INSPECTED_BYTES)
        if large_enough and held <= max(2 * fraction, MAX_HOLDOUT_SHARE) * (held + training) and training:
            return HashSplit(fraction)
    return _small_text_rule(distinct, fraction, documents_read)


def _small_text_rule(sizes: dict[bytes, int], fraction: float, documents: int) -> SplitRule:
    """Return the rule for a small text, given as hash → bytes of all its distinct documents.

    Documents longer than a quarter of the split give their ends, the others are held out as a whole: both splits have
    text of each. Of the short documents, no more than MAX_HOLDOUT_SHARE are held out, nor than ``fraction``.
    """
    total = sum(sizes.values())
    if total < 2:
        raise DataError("The text needs at least two characters.", hint="Use more text.")
    if len(sizes) == 1 and documents > MIN_EQUAL_DOCUMENTS:
        raise DataError(
            f"All {documents:,} documents are equal, so nothing can be held out that is not trained on.",
            hint="Use more text, or give another text for validation: --validation FILE.",
        )
    share = max(fraction, min(MIN_HOLDOUT_BYTES / total, MIN_HOLDOUT_SHARE))
    long = [d for d in sizes if sizes[d] > max(share * total / 4, MIN_CUT_BYTES)]
    short = sorted(sizes.keys() - set(long))
    held = _smallest(short, sizes, share, fraction, keep_one=not long)
    if not held and not long:
        long = [max(sizes, key=lambda digest: (sizes[digest], digest))]
    return SmallTextSplit(frozenset(held), dict.fromkeys(long, share), len(sizes))


def _smallest(
    short: list[bytes], sizes: dict[bytes, int], share: float, fraction: float, *, keep_one: bool
) -> list[bytes]:
    """Return the first of ``short``, which are sorted by hash, that have ``share`` of their bytes."""
    limit = int(max(MAX_HOLDOUT_SHARE, fraction) * len(short))
    limit = min(max(limit, keep_one), len(short) - keep_one)
    target = share * sum(sizes[digest] for digest in short)
    held: list[bytes] = []
    read = 0
    for digest in short[:limit]:
        if read >= target:
            break
        held.append(digest)
        read += sizes[digest]
    return held
