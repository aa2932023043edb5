"""Tokenize documents: the function that the preparing process and its workers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import TokenIds
from fabella.errors import TokenizerError
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedDocuments:
    """Ids of documents, concatenated, each with its EOS; ``lengths`` in ids, ``sizes`` in bytes of UTF-8."""

    ids: TokenIds
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> "TokenizedDocuments":
        """Return the documents where ``mask``, [documents], is true."""
        return TokenizedDocuments(self.ids[np.repeat(mask, self.lengths)], self.lengths[mask], self.sizes[mask])


def encode(tokenizer: Tokenizer, texts: Sequence[str], dtype: "np.dtype[Any]") -> TokenizedDocuments:
    """Encode ``texts``, each followed by the EOS id. Raises TokenizerError with the number of the text, from 0."""
    eos = np.array([tokenizer.eos_id], dtype=dtype)
    arrays: list[TokenIds] = []
    for ids in _encoded(tokenizer, texts):
        arrays += (ids.astype(dtype), eos)
    lengths = np.array([len(ids) + 1 for ids in arrays[::2]], dtype=np.int64)
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    return TokenizedDocuments(np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype), lengths, sizes)


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
