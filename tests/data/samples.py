"""Small datasets that several tests share."""

import json
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import (
    BPE,
    Bytes,
    DataConfig,
    FilesSource,
    Holdout,
    Packed,
    Padded,
    Source,
    StorybookSource,
    ValidationSource,
)
from fabella.data.dataset import Split, TokenizedDataset, dtype_for
from fabella.data.prepare.pipeline import prepare
from fabella.data.prepare.shard_writer import SplitWriter
from fabella.data.prepare.tokenize import TokenizedDocuments

SEQUENCES = Packed(length=32, stride=32)
FIFTH, BYTES = Holdout(fraction=0.2), Bytes()
SMALL = StorybookSource(stories=60)
ROLES = ("user", "assistant")


def split(
    folder: Path, lengths: list[int], *, vocab_size: int = 300, shard_tokens: int = 100, learned: float | None = None
) -> Split:
    """Write a split of documents of random ids; ``lengths`` include the EOS, which is id 0.

    ``learned``: share of the ids that a loss mask says are learned; None for a split without one.
    """
    dtype = dtype_for(vocab_size)
    with SplitWriter(folder, dtype, shard_tokens, masked=learned is not None) as writer:
        for number, length in enumerate(lengths):
            random = np.random.default_rng(number)
            ids = np.append(random.integers(1, vocab_size, length - 1), 0).astype(dtype)
            mask = None if learned is None else random.random(length) < learned
            size = np.array([2 * length])
            document = TokenizedDocuments(ids, np.array([length]), size, loss_mask=mask, learned_bytes=size)
            writer.append(document)
    return Split(folder, writer.record(), vocab_size)


def all_learned(of: Split) -> NDArray[np.bool_]:
    """Return whether each id of a split is learned."""
    return np.ones(of.tokens, np.bool_) if of.loss_mask is None else of.loss_mask.read(0, of.tokens).astype(np.bool_)


def chat_file(path: Path, count: int) -> FilesSource:
    """Write conversations of one or two turns, and return them as a source."""
    rows: list[str] = []
    for number in range(count):
        turns = [(f"A tale of {words(number, 3)}?", f"Tale {number}: {words(number + 1000, 8)}.")] * (1 + number % 2)
        messages = [{"role": role, "content": text} for turn in turns for role, text in zip(ROLES, turn, strict=True)]
        rows.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(rows) + "\n")
    return FilesSource(paths=(str(path),))


def all_ids(of: Split) -> NDArray[np.int64]:
    return of.read(0, of.tokens).astype(np.int64)


def data(
    source: Source = SMALL, validation: Holdout | ValidationSource = FIFTH, sequences: Packed | Padded = SEQUENCES
) -> DataConfig:
    return DataConfig(source=source, validation=validation, sequences=sequences)


def prepared(folder: Path, of: DataConfig | None = None, tokenizer: Bytes | BPE = BYTES) -> TokenizedDataset:
    return prepare(of or data(), tokenizer, folder, workers=1)


def lines(path: Path, texts: list[str]) -> FilesSource:
    """Write a file with one document per line, and return it as a source."""
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return FilesSource(paths=(str(path),), separator="lines")


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a directory."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def words(seed: int, count: int) -> str:
    source = random.Random(seed)
    return " ".join(source.choice(("once", "upon", "a", "time", "fox", "moon", "sea")) for _ in range(count))
