"""Parts of a prepared mixture: their counts, and the check that each has a training sequence."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import DataConfig, Source
from fabella.data.dataset import PartRecord, Split
from fabella.data.mixture_report import describe_parts
from fabella.data.prepare.tokenize import TokenizedDocuments
from fabella.data.sequences import SequenceDataset
from fabella.errors import DataError
from fabella.storage import format_share, number_of
from fabella.text.mixture import Leaf
from fabella.text.source import describe
from fabella.tokenizers.tokenizer import Tokenizer

__all__ = ["PartCounts", "describe_text", "require_sequences"]


class PartCounts:
    """Training documents, tokens and bytes of each part of a mixture, and its validation documents."""

    def __init__(self, sources: Sequence[Leaf]) -> None:
        self._sources = sources
        self._counts = np.zeros((max(len(sources), 1), 4), np.int64)

    def add(self, encoded: TokenizedDocuments, in_validation: NDArray[np.bool_], parts: NDArray[np.int64]) -> None:
        """Count documents, with the split and the part of each, [documents]."""
        training = [np.ones_like(parts), encoded.lengths, encoded.sizes]
        columns = [np.where(in_validation, 0, values) for values in training]
        for number, column in enumerate([*columns, in_validation]):
            np.add.at(self._counts[:, number], parts, column.astype(np.int64))

    def records(self) -> list[PartRecord]:
        """Return the records of the parts; none for one source. Raises DataError for a part without training text."""
        if len(self._sources) < 2:
            return []
        records: list[PartRecord] = []
        for source, (documents, tokens, size, held_out) in zip(self._sources, self._counts.tolist(), strict=True):
            if not documents:
                raise DataError(
                    f"No training document of {describe(source)} is left: all are held out for validation.",
                    hint="Use more text in each part of the mixture, or another validation source.",
                )
            record = PartRecord(
                source=describe(source), documents=documents, tokens=tokens, bytes=size, validation_documents=held_out
            )
            records.append(record)
        return records


def describe_text(source: Source, parts: Sequence[PartRecord], train: Split) -> Iterator[str]:
    """Yield sentences about the parts of a mixture, and about what is learned if the training split has a loss mask."""
    yield from describe_parts(source, parts)
    if train.loss_mask is not None:
        share = format_share(train.learned_tokens / train.tokens)
        yield f"loss on answers: {train.learned_tokens:,} of {train.tokens:,} training tokens ({share}) are learned"
    if train.without_answer:
        yield f"{number_of(train.without_answer, 'training document')} without an answer: not learned"


def require_sequences(
    train: Split, validation: Split, data: DataConfig, tokenizer: Tokenizer, parts: Sequence[PartRecord]
) -> None:
    """Raise DataError if a split, or a part of the training split, is too small for one sequence.

    The smaller split is reported: what is enough for it is enough for both.
    """
    eos_id, bos_id = tokenizer.eos_id, tokenizer.bos_id
    for split in sorted((train, validation), key=lambda split: split.tokens):
        SequenceDataset(split, data.sequences, eos_id, parts if split is train else (), bos_id=bos_id)
