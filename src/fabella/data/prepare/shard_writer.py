"""Writer of a split: shards of ids, document offsets and sizes. Memory is bounded by one chunk."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import DOCUMENT_BYTES, INT64, MASK_DTYPE, OFFSETS, ShardRecord, SplitRecord
from fabella.data.npy import NpyWriter
from fabella.data.prepare.tokenize import TokenizedDocuments
from fabella.storage import storage_errors

Values = NDArray[np.integer[Any]]
SHARD_TOKENS = 2**25
"""Tokens per shard: 64 MiB of uint16, few files that each fit into a page cache."""


class SplitWriter:
    """Writer of the directory ``train`` or ``validation`` of a dataset; a context manager."""

    def __init__(
        self, directory: Path, dtype: "np.dtype[Any]", shard_tokens: int = SHARD_TOKENS, *, masked: bool = False
    ) -> None:
        """``masked``: documents have a loss mask, which is written next to the ids."""
        with storage_errors(directory, f"creating {directory.name}"):
            directory.mkdir()
        self._directory, self._dtype, self._shard_tokens = directory, dtype, shard_tokens
        self.tokens = self.documents = self.bytes = 0
        self._learned_tokens = self._learned_bytes = self._without_answer = 0
        self._shards: list[NpyWriter] = []
        self._masks: list[NpyWriter] = []
        self._masked = masked
        self._files = ExitStack()

    def __enter__(self) -> Self:
        self._files.__enter__()
        self._offsets = self._files.enter_context(NpyWriter(self._directory / OFFSETS, INT64))
        self._sizes = self._files.enter_context(NpyWriter(self._directory / DOCUMENT_BYTES, INT64))
        self._offsets.append(np.zeros(1, dtype=np.int64))
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def append(self, encoded: TokenizedDocuments) -> None:
        """Append documents."""
        self._offsets.append(self.tokens + np.cumsum(encoded.lengths))
        self._sizes.append(encoded.sizes)
        self._append(encoded.ids, self._shards, "shard", self._dtype)
        if self._masked:
            self._append_mask(encoded)
        self.tokens += len(encoded.ids)
        self.documents += len(encoded.lengths)
        self.bytes += int(encoded.sizes.sum())

    def _append_mask(self, encoded: TokenizedDocuments) -> None:
        mask, learned_bytes = encoded.loss_mask, encoded.learned_bytes
        assert mask is not None, "the documents have a loss mask"
        assert learned_bytes is not None, "the documents have a loss mask"
        self._append(mask.astype(MASK_DTYPE), self._masks, "loss-mask", MASK_DTYPE)
        learned = np.add.reduceat(mask, np.cumsum([0, *encoded.lengths[:-1]]), dtype=np.int64) if len(mask) else mask
        self._without_answer += int((learned == 0).sum())
        self._learned_tokens += int(mask.sum())
        self._learned_bytes += int(learned_bytes.sum())

    def _append(self, values: Values, files: list[NpyWriter], name: str, dtype: "np.dtype[Any]") -> None:
        while len(values):
            if not files or files[-1].length == self._shard_tokens:
                path = self._directory / f"{name}-{len(files):05d}.npy"
                files.append(self._files.enter_context(NpyWriter(path, dtype)))
            free = self._shard_tokens - files[-1].length
            files[-1].append(values[:free])
            values = values[free:]

    def record(self) -> SplitRecord:
        """Return the manifest entry of the split, after it was closed."""
        return SplitRecord(
            documents=self.documents,
            tokens=self.tokens,
            bytes=self.bytes,
            shards=_records(self._shards),
            loss_mask=_records(self._masks),
            learned_tokens=self._learned_tokens,
            learned_bytes=self._learned_bytes,
            without_answer=self._without_answer,
        )


def _records(files: list[NpyWriter]) -> tuple[ShardRecord, ...]:
    return tuple(
        ShardRecord(file=shard.path.name, tokens=shard.length, crc32=tuple(shard.checksums)) for shard in files
    )
