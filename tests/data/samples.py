"""Small datasets that several tests share."""

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


def split(folder: Path, lengths: list[int], *, vocab_size: int = 300, shard_tokens: int = 100) -> Split:
    """Write a split of documents of random ids; ``lengths`` include the EOS, which is id 0."""
    dtype = dtype_for(vocab_size)
    with SplitWriter(folder, dtype, shard_tokens) as writer:
        for number, length in enumerate(lengths):
            ids = np.append(np.random.default_rng(number).integers(1, vocab_size, length - 1), 0).astype(dtype)
            writer.append(TokenizedDocuments(ids, np.array([length]), np.array([2 * length])))
    return Split(folder, writer.record(), vocab_size)


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
