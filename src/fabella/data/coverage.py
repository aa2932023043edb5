"""Share of a split that training sequences contain: what padded sequences cut off, and the rest after packed ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fabella.config.data import Packed, Padded
from fabella.data.dataset import PartRecord, Split
from fabella.storage import format_share


@dataclass(frozen=True, slots=True)
class Coverage:
    """Documents, bytes and tokens of a split, and those that an epoch of training sequences contains."""

    documents: int
    bytes: int
    tokens: int
    complete_documents: int
    """Documents that are contained from the first to the last token."""
    trained_bytes: int
    """Estimated: a document that is cut has the same bytes per token in both parts."""
    trained_tokens: int

    @property
    def share(self) -> float:
        """Share of the tokens, 0 to 1."""
        return self.trained_tokens / max(self.tokens, 1)

    def as_json(self) -> dict[str, Any]:
        """Return all numbers and the share by their names."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        return (
            f"{self.trained_tokens:,} of {self.tokens:,} tokens ({format_share(self.share)}), "
            f"{self.complete_documents:,} of {self.documents:,} documents complete, "
            f"{self.trained_bytes:,} of {self.bytes:,} bytes"
        )


def coverage(split: Split, sequences: Packed | Padded, parts: Sequence[PartRecord] = ()) -> Coverage:
    """Return what ``sequences`` contain of ``split``, with the ``parts`` of a mixture, counted over all documents."""
    ends = split.offsets[1:]
    lengths = np.diff(split.offsets)
    if isinstance(sequences, Padded):
        trained = np.minimum(lengths, sequences.length)
    else:
        sizes = [(part.documents, part.tokens) for part in parts] or [(split.documents, split.tokens)]
        last, start = [], 0
        for documents, tokens in sizes:
            count = max((tokens - sequences.length - 1) // sequences.stride + 1, 0)
            stop = start + (count - 1) * sequences.stride + sequences.length + 1 if count else start
            last.append(np.full(documents, stop))
            start += tokens
        trained = lengths - np.clip(ends - np.concatenate(last), 0, lengths)
    trained_bytes = split.document_bytes * (trained / lengths)
    return Coverage(
        documents=split.documents,
        bytes=split.bytes,
        tokens=split.tokens,
        complete_documents=int((trained == lengths).sum()),
        trained_bytes=round(float(trained_bytes.sum())),
        trained_tokens=int(trained.sum()),
    )
