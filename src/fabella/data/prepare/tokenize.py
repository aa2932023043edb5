"""Tokenize documents: the function that the preparing process and its workers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import TokenIds
from fabella.data.prepare.round_trip import KINDS, Counts, RoundTrip
from fabella.tokenizers.chat.encode import DocumentEncoder
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedDocuments:
    """Ids of documents, concatenated, each with its EOS; ``lengths`` in ids, ``sizes`` in bytes of UTF-8."""

    ids: TokenIds
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    changes: Counts = field(default_factory=lambda: np.zeros(KINDS, np.int64))
    """What the tokenizer changes in them, as ``RoundTrip.count`` counts it; zeros if it was not compared."""

    def select(self, mask: NDArray[np.bool_]) -> "TokenizedDocuments":
        """Return the documents where ``mask``, [documents], is true."""
        return TokenizedDocuments(self.ids[np.repeat(mask, self.lengths)], self.lengths[mask], self.sizes[mask])


def round_trip(tokenizer: Tokenizer) -> RoundTrip | None:
    """Return the comparison that an imported tokenizer needs; tokenizers that Fabella trains restore every text."""
    return RoundTrip(tokenizer) if tokenizer.kind == "pretrained" else None


def encode(
    encoder: DocumentEncoder, texts: Sequence[str], dtype: "np.dtype[Any]", compare: RoundTrip | None = None
) -> TokenizedDocuments:
    """Encode ``texts``, each followed by the EOS id. Raises TokenizerError with the number of the text, from 0.

    ``compare`` counts what the tokenizer changes.
    """
    documents = encoder.encode(texts)
    parts = [part.astype(dtype) for document in documents for part in document.parts]
    lengths = np.array([sum(map(len, document.parts)) for document in documents], dtype=np.int64)
    sizes = np.array([len(document.text) for document in documents], dtype=np.int64)
    ids = np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
    if compare is None:
        return TokenizedDocuments(ids, lengths, sizes)
    arrays = np.split(ids, np.cumsum(lengths)[:-1]) if documents else []
    return TokenizedDocuments(ids, lengths, sizes, compare.count([document.text for document in documents], arrays))
