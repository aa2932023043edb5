"""Batch of training sequences: numpy arrays of ids and of the ids to predict."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.models import IGNORE


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences: ``targets[b, t]`` is the id that follows ``tokens[b, t]``, or ``fabella.models.IGNORE`` (-100)."""

    tokens: NDArray[np.int32]
    """[B, T], ids; padded with the EOS id."""
    targets: NDArray[np.int32]
    """[B, T], ids or IGNORE."""
    document_starts: NDArray[np.int32] | None = None
    """[B, T], position in the row at which the document of each token starts; None: documents are not masked."""
    stream: str = ""
    """JSON state of the stream after this batch, to resume from; empty for a pretokenized dataset."""

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.int32]]) -> "Batch":
        """Return the batch with these ``arrays``."""
        return cls(arrays["tokens"], arrays["targets"], arrays.get("document_starts"))

    @property
    def num_targets(self) -> int:
        """Number of targets that are not IGNORE."""
        return int((self.targets >= 0).sum())

    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """Return the arrays by the names of their fields, ``document_starts`` if documents are masked."""
        masks = {} if self.document_starts is None else {"document_starts": self.document_starts}
        return {"tokens": self.tokens, "targets": self.targets, **masks}

    def padded(self, rows: int, time: int) -> "Batch":
        """Return the batch with arrays [rows, time]; the added positions have no targets."""
        padding = ((0, rows - len(self.tokens)), (0, time - self.tokens.shape[1]))
        return Batch(
            np.pad(self.tokens, padding),
            np.pad(self.targets, padding, constant_values=IGNORE),
            None if self.document_starts is None else np.pad(self.document_starts, padding),
            self.stream,
        )


def document_starts(tokens: NDArray[np.int32], first_id: int) -> NDArray[np.int32]:
    """Return the position at which the document of each token starts, [B, T].

    A document starts at ``first_id``: the BOS id, or for a tokenizer without one the EOS id that ends the document
    before, which precedes the first token of a padded sequence as well. The document in which a row begins starts at 0.
    """
    positions = np.arange(tokens.shape[1], dtype=np.int32)
    return np.maximum.accumulate(np.where(tokens == first_id, positions, np.int32(0)), axis=1)
