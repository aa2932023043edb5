"""Tokenize documents: the function that the preparing process and its workers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import LossOn
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
    loss_mask: NDArray[np.bool_] | None = None
    """Whether each id is learned, as long as ``ids``; None if all are."""
    learned_bytes: NDArray[np.int64] | None = None
    """Bytes of the text that is learned of each document; None if all of it is."""

    def select(self, mask: NDArray[np.bool_]) -> "TokenizedDocuments":
        """Return the documents where ``mask``, [documents], is true."""
        of_ids = np.repeat(mask, self.lengths)
        return TokenizedDocuments(
            self.ids[of_ids],
            self.lengths[mask],
            self.sizes[mask],
            loss_mask=None if self.loss_mask is None else self.loss_mask[of_ids],
            learned_bytes=None if self.learned_bytes is None else self.learned_bytes[mask],
        )


def round_trip(tokenizer: Tokenizer) -> RoundTrip | None:
    """Return the comparison that an imported tokenizer needs; tokenizers that Fabella trains restore every text."""
    return RoundTrip(tokenizer) if tokenizer.kind == "pretrained" else None


def encode(
    encoder: DocumentEncoder,
    texts: Sequence[str],
    dtype: "np.dtype[Any]",
    compare: RoundTrip | None = None,
    *,
    loss_on: LossOn = "all",
) -> TokenizedDocuments:
    """Encode ``texts``, each followed by the EOS id. Raises TokenizerError with the number of the text, from 0.

    ``compare`` counts what the tokenizer changes. ``loss_on`` answers: with the mask of the ids that are learned.
    """
    documents = encoder.encode(texts)
    parts = [part for document in documents for part in document.parts]
    lengths = np.array([sum(map(len, document.parts)) for document in documents], dtype=np.int64)
    sizes = np.array([len(document.text) for document in documents], dtype=np.int64)
    ids = np.concatenate(parts, dtype=dtype, casting="unsafe") if parts else np.empty(0, dtype=dtype)
    encoded = TokenizedDocuments(ids, lengths, sizes)
    if loss_on == "answers":
        masks = [document.mask for document in documents]
        encoded = replace(
            encoded,
            loss_mask=np.concatenate(masks) if masks else np.empty(0, np.bool_),
            learned_bytes=np.array([document.answer_bytes for document in documents], dtype=np.int64),
        )
    if compare is None:
        return encoded
    arrays = np.split(ids, np.cumsum(lengths)[:-1]) if documents else []
    return replace(encoded, changes=compare.count([document.text for document in documents], arrays))
