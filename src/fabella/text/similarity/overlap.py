"""Overlap of a training text with other texts, such as validation text and evaluation sets, by word n-grams.

A document overlaps if one of its runs of 13 words is in the training text (Brown et al. 2020, arXiv 2005.14165,
appendix C); a shorter document, such as a sentence of BLiMP, if all of its words are, one after the other.

    documents of the others ─▶ hashes of their runs, sorted ◀─ search ─ every run of every training document

Memory is 24 bytes per run of the other texts, which are sampled beyond MAX_RUNS.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.storage import format_share, number_of
from fabella.text.similarity.word_ngrams import ngram_hashes, word_hashes

RUN_WORDS = 13
"""Words of a run (GPT-3)."""
MIN_WORDS = 5
"""Words that a document needs to be compared: shorter phrases are in every text."""
MAX_RUNS = 4_000_000
"""Runs of one text at most; of a larger text, every second, fourth … document is compared."""
EXAMPLES = 3
"""Overlapping documents that are quoted."""


@dataclass(slots=True)
class OverlapExample:
    """An overlapping document: its number and that of a training document, from 1, and the common words' beginning."""

    document: int
    training_document: int
    text: str


@dataclass(slots=True)
class Overlap:
    """Overlap of one text with the training text."""

    name: str
    documents: int = 0
    """Documents that were compared."""
    skipped: int = 0
    """Documents with fewer than MIN_WORDS words, or beyond the sample."""
    overlapping: int = 0
    runs: int = 0
    """Runs of words that were compared."""
    common_runs: int = 0
    """Of these, the ones that are in the training text."""
    examples: list[OverlapExample] = field(default_factory=list[OverlapExample])

    @property
    def share(self) -> float:
        """Share of the compared documents that overlap, 0 to 1."""
        return self.overlapping / max(self.documents, 1)

    def as_json(self) -> dict[str, Any]:
        """Return the values by their names."""
        return {
            "name": self.name,
            "documents": self.documents,
            "skipped": self.skipped,
            "overlapping": self.overlapping,
            "share": self.share,
            "runs": self.runs,
            "common_runs": self.common_runs,
            "examples": [
                {"document": one.document, "training_document": one.training_document, "text": one.text}
                for one in self.examples
            ],
        }

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{one.document:,} ({one.text!r}, also in training document {one.training_document:,})"
            for one in self.examples
        )
        found = f"; documents {numbers}" if numbers else ""
        if self.skipped:
            found += f"; {self.skipped:,} were not compared, with fewer than {MIN_WORDS} words or beyond the sample"
        return (
            f"overlap with {self.name}: {self.overlapping:,} of {number_of(self.documents, 'document')} "
            f"({format_share(self.share)}) share a run of {RUN_WORDS} words with the training text, or are in it; "
            f"{format_share(self.common_runs / max(self.runs, 1))} of all runs are{found}"
        )


class OverlapFinder:
    """Finder of the overlap of one text: give its documents, ``add`` every training document, then ``result``."""

    def __init__(self, name: str, documents: Iterable[str], max_runs: int = MAX_RUNS) -> None:
        self._name, self._max_runs = name, max_runs
        hashes, owners, lengths = self._collect(documents)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners, self._lengths = hashes[order], owners[order], np.unique(lengths).tolist()
        self._common = np.zeros(len(hashes), np.bool_)
        self._found = np.full(self._total + 1, -1, np.int64)
        self._training = 0

    def _collect(self, documents: Iterable[str]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the hashes of all runs, their documents and lengths; halve the sample when there are too many."""
        rows: list[tuple[NDArray[np.uint64], int, int]] = []
        step, runs, self._total = 1, 0, 0
        for number, text in enumerate(documents):
            self._total = number + 1
            words = word_hashes(text) if number % step == 0 else np.empty(0, np.uint64)
            if len(words) < MIN_WORDS:
                continue
            length = min(len(words), RUN_WORDS)
            rows.append((np.unique(ngram_hashes(words, length)), number, length))
            runs += len(rows[-1][0])
            while runs > self._max_runs and len(rows) > 1:
                step *= 2
                rows = [row for row in rows if row[1] % step == 0]
                runs = sum(len(row[0]) for row in rows)
        self._compared = len(rows)
        if not rows:
            empty = np.empty(0, np.uint64)
            return empty, empty.astype(np.int64), empty.astype(np.int64)
        sizes = [len(row[0]) for row in rows]
        owners, lengths = (np.repeat(np.array([row[at] for row in rows]), sizes) for at in (1, 2))
        return np.concatenate([row[0] for row in rows]), owners, lengths

    def add(self, text: str) -> None:
        """Compare one training document."""
        self._training += 1
        if not len(self._hashes):
            return
        words = word_hashes(text)
        for length in self._lengths:
            if len(words) >= length:
                self._match(np.unique(ngram_hashes(words, length)))

    def _match(self, runs: NDArray[np.uint64]) -> None:
        """Record the training document for every document that has one of ``runs``."""
        first = np.searchsorted(self._hashes, runs, side="left")
        last = np.searchsorted(self._hashes, runs, side="right")
        for begin, end in zip(first[first < last].tolist(), last[first < last].tolist(), strict=True):
            self._common[begin:end] = True
            owners = self._owners[begin:end]
            new = owners[self._found[owners] < 0]
            self._found[new] = self._training

    def result(self, read: Callable[[], Iterable[str]]) -> Overlap:
        """Return the overlap; ``read`` returns the same documents again, to quote some of those that overlap."""
        overlapping = np.flatnonzero(self._found >= 0)
        result = Overlap(self._name, self._compared, self._total - self._compared, len(overlapping))
        result.runs, result.common_runs = len(self._common), int(self._common.sum())
        wanted = overlapping[:EXAMPLES].tolist()
        for number, text in enumerate(read() if wanted else ()):
            if number > wanted[-1]:
                break
            if number in wanted:
                beginning = " ".join(text.split())[:60]
                result.examples.append(OverlapExample(number + 1, int(self._found[number]), beginning))
        return result
