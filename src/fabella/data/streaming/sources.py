"""Training documents of one source, epoch after epoch, and of a mixture of sources: read on from any document."""

import itertools
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from fabella.config.data import DataConfig
from fabella.data.dataset import TokenIds
from fabella.data.permutation import permute
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import SplitRule
from fabella.data.streaming.shuffle_buffer import ResumableStream, State, changed
from fabella.errors import TextError
from fabella.splitmix64 import splitmix64
from fabella.text.decode_policy import DecodePolicy
from fabella.text.mixture import uniform
from fabella.text.resumable import Chunk, Leaf, iter_chunks
from fabella.text.source import describe


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where reading a source stands; documents are counted as they are read, those held out included."""

    epoch: int = 0
    mark: str = ""
    """of the portion that is read; empty before the first"""
    documents: int = 0
    """of the portion that have been read"""
    digest: int = 0
    """CRC-32 of them"""
    bad_lines: int = 0
    """in earlier portions of this epoch"""
    before: int = 0
    """documents in earlier portions of this epoch"""
    total: int = 0
    """sum of the digests of those portions, modulo 2⁶⁴"""
    learned: int = 0
    """documents of this epoch that are trained on"""
    first_documents: int = 0
    first_total: int = 0
    """documents and total of the first epoch, once it is over"""


class RepeatedSource:
    """The training documents of one source, in portions that each epoch reads in another order; None between epochs."""

    def __init__(self, source: Leaf, data: DataConfig, rule: SplitRule, key: int) -> None:
        self._source, self._data, self._rule, self._key = source, data, rule, key
        self.restore({})

    def next_item(self) -> str | None:
        """The next document. Raises TextError: reading failed, nothing is there, another epoch than the first."""
        while True:
            text = next(self._texts, None)
            if text is not None:
                if (learned := self._count(text)) is not None:
                    return learned
            elif not self._next_portion():
                self._end_epoch()
                return None

    def state(self) -> State:
        """Where it stands: a Place."""
        return asdict(self._place())

    def restore(self, state: State) -> None:
        """Read up to ``state``, a Place; nothing of it: from the beginning."""
        place = Cursor(**state)
        self._begin(place)
        if not place.mark and not place.documents:
            return
        if not self._next_portion() or self._mark != place.mark:
            raise changed(f"{describe(self._source)} has fewer parts")
        for text in itertools.islice(self._texts, place.documents):
            self._documents, self._digest = self._documents + 1, zlib.crc32(text.encode(), self._digest)
        if (self._documents, self._digest) != (place.documents, place.digest):
            raise changed(f"in {describe(self._source)}, the documents before the place where it stood")

    def _place(self) -> Cursor:
        return replace(self._at, mark=self._mark, documents=self._documents, digest=self._digest, learned=self._learned)

    def _begin(self, place: Cursor) -> None:
        """Open the source at the portion of ``place``."""
        data = self._data
        self._reading = DecodePolicy(data.decode_errors, data.max_bad_lines, bad_lines=place.bad_lines)
        self._portions: Iterator[Chunk] = iter_chunks(
            self._source, self._reading, lambda n: self._order(n, place.epoch), place.mark
        )
        self._at = replace(place, documents=0, digest=0)
        self._mark, self._documents, self._digest, self._learned = place.mark, 0, 0, place.learned
        self._texts: Iterator[str] = iter(())

    def _order(self, n: int, epoch: int) -> list[int]:
        return permute(np.arange(n), n, splitmix64(self._key + splitmix64(~epoch))).tolist() if n else []

    def _count(self, text: str) -> str | None:
        """The document, or its part that is trained on; None where it is held out."""
        raw = text.encode()
        self._documents, self._digest = self._documents + 1, zlib.crc32(raw, self._digest)
        kept = [part.text for part in self._rule.assign(text, document_hash(text)) if not part.held_out]
        self._learned += len(kept)
        return kept[0] if kept else None

    def _next_portion(self) -> bool:
        """Add up the portion that is over and open the next; False where there is none."""
        at = self._at = replace(
            self._at,
            before=self._at.before + self._documents,
            total=(self._at.total + self._digest) % 2**64,
            bad_lines=self._reading.bad_lines,
        )
        self._documents, self._digest = 0, 0
        portion = next(self._portions, None)
        if portion is None:
            return False
        self._at = replace(at, mark=portion.cursor)
        self._mark, self._texts = portion.cursor, portion.texts
        return True

    def _end_epoch(self) -> None:
        at = self._at
        if not self._learned:
            raise TextError(f"There is no training text in {describe(self._source)}.", hint="Bring more text.")
        first = (at.first_documents, at.first_total) if at.epoch else (at.before, at.total)
        if (at.before, at.total) != first:
            then, now = f"{first[0]:,} documents in its first epoch", f"{at.before:,} in epoch {at.epoch + 1}"
            raise changed(f"{describe(self._source)} had {then}, and has {now} with other content")
        self._begin(Cursor(epoch=at.epoch + 1, first_documents=first[0], first_total=first[1]))


class WeightedInterleave:
    """Documents of several sources, encoded. Which source gives draw ``n`` is decided by (seed, n) and the weights.

    A source that ends begins again by itself, so that the shares are the weights however long the sources are.
    """

    def __init__(self, parts: Sequence[ResumableStream[TokenIds]], weights: Sequence[float], seed: int) -> None:
        self._parts, self._seed = parts, seed
        self._borders = list(itertools.accumulate(weights))[:-1]
        self._draws = 0

    def next_item(self) -> TokenIds:
        """The next document of the source that is drawn."""
        part = bisect_right(self._borders, uniform(self._seed, self._draws))
        self._draws += 1
        ids = self._parts[part].next_item()
        assert ids is not None, "a source of documents has no end"
        return ids

    def state(self) -> State:
        """The number of draws, and each source's state."""
        return {"draws": self._draws, "parts": [part.state() for part in self._parts]}

    def restore(self, state: State) -> None:
        """Each source where it stood."""
        self._draws = state["draws"]
        for part, inner in zip(self._parts, state["parts"], strict=True):
            part.restore(inner)
