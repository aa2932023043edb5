"""Tokenize documents: the function that the preparing process and its workers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import TokenIds
from fabella.data.prepare.round_trip import KINDS, Counts, RoundTrip
from fabella.errors import TokenizerError
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
    tokenizer: Tokenizer, texts: Sequence[str], dtype: "np.dtype[Any]", compare: RoundTrip | None = None
) -> TokenizedDocuments:
    """Encode ``texts``, each followed by the EOS id. Raises TokenizerError with the number of the text, from 0.

    ``compare`` counts what the tokenizer changes.
    """
    eos = np.array([tokenizer.eos_id], dtype=dtype)
    arrays: list[TokenIds] = []
    for ids in _encoded(tokenizer, texts):
        arrays += (ids.astype(dtype), eos)
    lengths = np.array([len(ids) + 1 for ids in arrays[::2]], dtype=np.int64)
    raw = [text.encode() for text in texts]
    sizes = np.array([len(text) for text in raw], dtype=np.int64)
    ids = np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
    if compare is None:
        return TokenizedDocuments(ids, lengths, sizes)
    return TokenizedDocuments(ids, lengths, sizes, compare.count(raw, arrays[::2]))


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    try:
        return tokenizer.encode_many(texts)
    except TokenizerError:
        # Again one by one, to name the text that failed.
        return [_encode_one(tokenizer, text, number) for number, text in enumerate(texts)]


def _encode_one(tokenizer: Tokenizer, text: str, number: int) -> NDArray[np.int32]:
    try:
        return tokenizer.encode(text)
    except TokenizerError as error:
        raise TokenizerError(f"Document {number} ({text[:40]!r}): {error.message}", hint=error.hint) from error
