"""Documents become ids: the one function that the preparing process and its workers share."""

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
    """Ids of documents, one after the other, each with its end; ``lengths`` in ids, ``sizes`` in bytes of UTF-8."""

    ids: TokenIds
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def select(self, chosen: NDArray[np.bool_]) -> "TokenizedDocuments":
        """Only the documents where ``chosen`` [documents] holds."""
        return TokenizedDocuments(self.ids[np.repeat(chosen, self.lengths)], self.lengths[chosen], self.sizes[chosen])


def encode(tokenizer: Tokenizer, texts: Sequence[str], dtype: "np.dtype[Any]") -> TokenizedDocuments:
    """Encode ``texts``, each ended by the tokenizer's end. Raises TokenizerError naming the text (counted from 0)."""
    end = np.array([tokenizer.eos_id], dtype=dtype)
    arrays: list[TokenIds] = []
    for ids in _encoded(tokenizer, texts):
        arrays += (ids.astype(dtype), end)
    lengths = np.array([len(ids) + 1 for ids in arrays[::2]], dtype=np.int64)
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    return TokenizedDocuments(np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype), lengths, sizes)


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    try:
        return tokenizer.encode_many(texts)
    except TokenizerError:
        # Once more, one by one, only to say which text it was.
        return [_one(tokenizer, text, number) for number, text in enumerate(texts)]


def _one(tokenizer: Tokenizer, text: str, number: int) -> NDArray[np.int32]:
    try:
        return tokenizer.encode(text)
    except TokenizerError as error:
        raise TokenizerError(f"Document {number} ({text[:40]!r}): {error.message}", hint=error.hint) from error
