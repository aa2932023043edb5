"""Find duplicates: equal documents by their hashes, similar ones by MinHash signatures (needs rensa).

    documents ─▶ hash of each                        ─▶ equal to an earlier one
              └▶ 5-word runs ─▶ signature of 128 numbers (a temporary file)
                                  └▶ bands: documents with an equal band are compared ─▶ similar to an earlier one

Broder 1997, "On the resemblance and containment of documents". Memory is about 50 bytes per document; signatures take
512 bytes each on the disk. Everything is computed in the order of the documents, so the result has no other input.
"""

import tempfile
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import DataError
from fabella.splitmix64 import GAMMA, splitmix64
from fabella.text.similarity.word_ngrams import ngram_hashes, word_hashes

SHINGLE_WORDS = 5
"""Words of the runs that two documents are compared by, as in FineWeb (Penedo et al. 2024, arXiv 2406.17557)."""
NUMBERS = 128
"""Numbers of a signature: the similarity of two documents is estimated with a standard error of 0.04 or less."""
SEED = 1
MIN_FOUND = 0.97
"""Probability, 0 to 1, that two documents of exactly the similarity share a band and are compared."""
BATCH = 256
"""Documents of which the signatures are computed in one call."""
MAX_ROUNDS = 16
"""Groups of similar documents that are separated among those with one equal band; more would take too long."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Which documents are duplicates of earlier ones, [documents]: 0 none, EXACT, NEAR; and of which, -1 for none."""

    kinds: NDArray[np.uint8]
    originals: NDArray[np.int64]

    def count(self, kind: int) -> int:
        """Return the number of duplicates of one kind."""
        return int((self.kinds == kind).sum())


EXACT, NEAR = 1, 2


class DuplicateFinder:
    """Finder of duplicates: ``add`` every document in order, then ``find``."""

    def __init__(self, similarity: float = 0.0) -> None:
        """``similarity``: share of common 5-word runs from which documents are duplicates; 0 finds equal ones only.

        Raises DataError if rensa is missing.
        """
        self._similarity = similarity
        self._digests = array("Q")
        self._minhash: Any = _minhash() if similarity else None
        self._signatures = tempfile.TemporaryFile(prefix="fabella-signatures-")  # noqa: SIM115 - closed by find
        self._shingles: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, text: str, digest: bytes) -> None:
        """Add one document; ``digest`` is its hash."""
        self._digests.append(int.from_bytes(digest[:8], "big"))
        if self._similarity:
            shingles = np.unique(ngram_hashes(word_hashes(text), SHINGLE_WORDS))
            # A document without words is similar to equal ones only.
            self._shingles.append(shingles if len(shingles) else np.array([self._digests[-1]], np.uint64))
            if len(self._shingles) == BATCH:
                self._sign()

    def find(self) -> Duplicates:
        """Return the duplicates of earlier documents, and delete the signatures."""
        digests = np.frombuffer(self._digests, np.uint64) if self._digests else np.empty(0, np.uint64)
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        originals = first[inverse].astype(np.int64)
        kinds = np.where(originals < np.arange(len(digests)), EXACT, 0).astype(np.uint8)
        if self._similarity:
            self._sign()
            roots = self._similar(kinds == 0)
            near = (kinds == 0) & (roots < np.arange(len(roots)))
            kinds[near] = NEAR
            originals = np.where(near, roots, roots[originals])
        self._signatures.close()
        originals[kinds == 0] = -1
        return Duplicates(kinds, originals)

    def _sign(self) -> None:
        """Write the signatures of the waiting documents."""
        if not self._shingles:
            return
        offsets = np.cumsum([0, *map(len, self._shingles)]).astype(np.uint64)
        shingles = np.concatenate(self._shingles)
        matrix = self._minhash.digest_matrix_from_flat_token_hashes(shingles, offsets, NUMBERS, SEED)
        self._signatures.write(np.array(matrix.to_rows(), np.uint32).tobytes())
        self._shingles = []

    def _similar(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return for each document the first one that it is similar to, through others, or itself, [documents]."""
        parents = np.arange(len(wanted))
        rows = np.flatnonzero(wanted)
        if len(rows) < 2:
            return parents
        self._signatures.flush()
        signatures = np.memmap(self._signatures, np.uint32, "r", shape=(len(wanted), NUMBERS))
        bands, width = _bands(self._similarity)
        for band in range(bands):
            keys = _band_keys(signatures, rows, band * width, width)
            order = np.argsort(keys, kind="stable")
            same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
            for group in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else ():
                members = rows[order[group[0] : group[-1] + 2]]
                self._join(signatures, members, parents)
        return _roots(parents)

    def _join(self, signatures: NDArray[np.uint32], members: NDArray[np.int64], parents: NDArray[np.int64]) -> None:
        """Join each document of a group with the first that it is similar to; ``members`` ascend."""
        for _ in range(MAX_ROUNDS):
            if len(members) < 2:
                return
            first, others = members[0], members[1:]
            equal = (np.asarray(signatures[others]) == np.asarray(signatures[first])).mean(axis=1)
            similar = equal >= self._similarity
            for other in others[similar].tolist():
                _union(parents, int(first), other)
            members = others[~similar]


def _minhash() -> Any:
    try:
        import rensa
    except ImportError as error:
        raise DataError("Finding similar documents needs rensa.", hint="pip install 'fabella[duplicates]'") from error
    return getattr(rensa, "RMinHash")  # noqa: B009 - its stubs lack the class


def _bands(similarity: float) -> tuple[int, int]:
    """Return number and width of the widest bands that find ``similarity`` with MIN_FOUND."""
    for width in range(NUMBERS // 2, 1, -1):
        if 1 - (1 - similarity**width) ** (NUMBERS // width) >= MIN_FOUND:
            return NUMBERS // width, width
    return NUMBERS, 1


def _band_keys(signatures: NDArray[np.uint32], rows: NDArray[np.int64], first: int, width: int) -> NDArray[np.uint64]:
    """Return the hash of one band of each of ``rows``, a few thousand of them in memory at a time."""
    keys = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), 4096):
        part = np.asarray(signatures[rows[start : start + 4096], first : first + width]).astype(np.uint64)
        for column in part.T:
            keys[start : start + 4096] = splitmix64(keys[start : start + 4096] * np.uint64(GAMMA) + column)
    return keys


def _union(parents: NDArray[np.int64], one: int, other: int) -> None:
    """Join the trees of two documents; the smaller root, which is the earlier document, remains."""
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)


def _root(parents: NDArray[np.int64], node: int) -> int:
    while (parent := int(parents[node])) != node:
        parents[node] = parents[parent]
        node = parent
    return node


def _roots(parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the root of every document."""
    while True:
        shorter = parents[parents]
        if (shorter == parents).all():
            return parents
        parents = shorter
