"""Training documents of one source, epoch after epoch, and of a mixture of sources; resumable at any document."""

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from fabella.config.data import DataConfig
from fabella.data.permutation import permute
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import SplitRule
from fabella.data.streaming.packing import SignedIds
from fabella.data.streaming.shuffle_buffer import ResumableStream, State, changed_error
from fabella.errors import TextError
from fabella.splitmix64 import splitmix64
from fabella.text.chat.template import ConversationWriter
from fabella.text.decode_policy import DecodePolicy
from fabella.text.mixture import Leaf, WeightedRoundRobin
from fabella.text.resumable import Chunk, iter_chunks
from fabella.text.source import describe


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position in a source. Documents are counted as they are read, including held-out ones."""

    epoch: int = 0
    mark: str = ""
    """Cursor of the current chunk; empty before the first."""
    documents: int = 0
    """Documents read of the current chunk."""
    digest: int = 0
    """CRC-32 of the documents read of the current chunk."""
    bad_lines: int = 0
    """Broken lines in earlier chunks of this epoch."""
    before: int = 0
    """Documents in earlier chunks of this epoch."""
    total: int = 0
    """Sum of the digests of earlier chunks of this epoch, modulo 2^64."""
    learned: int = 0
    """Training documents of this epoch so far."""
    first_documents: int = 0
    first_total: int = 0
    """Documents and total of the first epoch; 0 until it is over."""


class RepeatedSource:
    """Training documents of one source in chunks, which each epoch reads in another order; None between epochs."""

    def __init__(self, source: Leaf, data: DataConfig, rule: SplitRule, key: int, writer: ConversationWriter) -> None:
        """``writer`` writes the conversations, as for ``rule``."""
        self._source, self._data, self._rule, self._key, self._writer = source, data, rule, key, writer
        self.restore({})

    def next_item(self) -> str | None:
        """Return the next document. Raises TextError: no text, damage, or an epoch unlike the first."""
        while True:
            text = next(self._texts, None)
            if text is not None:
                if (document := self._count(text)) is not None:
                    return document
            elif not self._next_chunk():
                self._end_epoch()
                return None

    def state(self) -> State:
        """Return the position as the fields of a Cursor."""
        return asdict(self._cursor())

    def restore(self, state: State) -> None:
        """Read up to ``state``, the fields of a Cursor; empty means the beginning."""
        cursor = Cursor(**state)
        self._open(cursor)
        if not cursor.mark and not cursor.documents:
            return
        if not self._next_chunk() or self._mark != cursor.mark:
            raise changed_error(f"{describe(self._source)} has fewer parts")
        for text in itertools.islice(self._texts, cursor.documents):
            self._documents, self._digest = self._documents + 1, zlib.crc32(text.encode(), self._digest)
        if (self._documents, self._digest) != (cursor.documents, cursor.digest):
            raise changed_error(f"in {describe(self._source)}, the documents before its position")

    def _cursor(self) -> Cursor:
        return replace(self._at, mark=self._mark, documents=self._documents, digest=self._digest, learned=self._learned)

    def _open(self, cursor: Cursor) -> None:
        """Open the source at the chunk of ``cursor``."""
        data = self._data
        self._policy = DecodePolicy(
            data.decode_errors, data.max_bad_lines, bad_lines=cursor.bad_lines, writer=self._writer
        )
        self._chunks: Iterator[Chunk] = iter_chunks(
            self._source, self._policy, lambda n: self._order(n, cursor.epoch), cursor.mark
        )
        self._at = replace(cursor, documents=0, digest=0)
        self._mark, self._documents, self._digest, self._learned = cursor.mark, 0, 0, cursor.learned
        self._texts: Iterator[str] = iter(())

    def _order(self, n: int, epoch: int) -> list[int]:
        return permute(np.arange(n), n, splitmix64(self._key + splitmix64(~epoch))).tolist() if n else []

    def _count(self, text: str) -> str | None:
        """Count a document; return it, or the part of it that is trained on, or None if it is held out."""
        raw = text.encode()
        self._documents, self._digest = self._documents + 1, zlib.crc32(raw, self._digest)
        training = [part.text for part in self._rule.assign(text, document_hash(text)) if not part.held_out]
        self._learned += len(training)
        return training[0] if training else None

    def _next_chunk(self) -> bool:
        """Add up the finished chunk and open the next; False if there is none."""
        at = self._at = replace(
            self._at,
            before=self._at.before + self._documents,
            total=(self._at.total + self._digest) % 2**64,
            bad_lines=self._policy.bad_lines,
        )
        self._documents, self._digest = 0, 0
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._at = replace(at, mark=chunk.cursor)
        self._mark, self._texts = chunk.cursor, chunk.texts
        return True

    def _end_epoch(self) -> None:
        at = self._at
        if not self._learned:
            raise TextError(f"There is no training text in {describe(self._source)}.", hint="Use more text.")
        first = (at.first_documents, at.first_total) if at.epoch else (at.before, at.total)
        if (at.before, at.total) != first:
            old, new = f"{first[0]:,} documents in its first epoch", f"{at.before:,} in epoch {at.epoch + 1}"
            raise changed_error(f"{describe(self._source)} had {old}, and has {new} with other content")
        self._open(Cursor(epoch=at.epoch + 1, first_documents=first[0], first_total=first[1]))


class WeightedInterleave:
    """Documents of several sources as ids; each source has its share of the units, whatever their lengths.

    A source that ends starts over. The state is the credit of each source and the position in the phases.
    """

    def __init__(
        self,
        parts: Sequence[ResumableStream[SignedIds]],
        phases: Sequence[tuple[int | None, Sequence[float]]],
        units_of: Callable[[SignedIds], int],
        advance_of: Callable[[SignedIds], int],
    ) -> None:
        """``phases``: (position after it, share of each source); ``units_of``: what the shares count of a document.

        ``advance_of``: by how much a document moves the position.
        """
        self._parts, self._phases = parts, phases
        self._units_of, self._advance_of = units_of, advance_of
        self._balance, self._position = WeightedRoundRobin(len(parts)), 0

    def next_item(self) -> SignedIds:
        """Return the next document of the source that is furthest behind its share."""
        shares = next(shares for end, shares in self._phases if end is None or self._position < end)
        part = self._balance.choose(shares)
        ids = self._parts[part].next_item()
        assert ids is not None, "a source never ends"
        self._balance.charge(part, self._units_of(ids), shares)
        self._position += self._advance_of(ids)
        return ids

    def state(self) -> State:
        """Return position and credits, and the state of each source."""
        parts = [part.state() for part in self._parts]
        return {"position": self._position, "credits": list(self._balance.credits), "parts": parts}

    def restore(self, state: State) -> None:
        """Restore each source."""
        self._position, self._balance.credits = state["position"], list(state["credits"])
        for part, inner in zip(self._parts, state["parts"], strict=True):
            part.restore(inner)
