"""Writer of a split: shards of ids, document offsets and sizes. Memory is bounded by one chunk."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from fabella.data.dataset import DOCUMENT_BYTES, INT64, OFFSETS, ShardRecord, SplitRecord, TokenIds
from fabella.data.npy import NpyWriter
from fabella.data.prepare.tokenize import TokenizedDocuments
from fabella.storage import storage_errors

SHARD_TOKENS = 2**25
"""Tokens per shard: 64 MiB of uint16, few files that each fit into a page cache."""


class SplitWriter:
    """Writer of the directory ``train`` or ``validation`` of a dataset; a context manager."""

    def __init__(self, directory: Path, dtype: "np.dtype[Any]", shard_tokens: int = SHARD_TOKENS) -> None:
        with storage_errors(directory, f"creating {directory.name}"):
            directory.mkdir()
        self._directory, self._dtype, self._shard_tokens = directory, dtype, shard_tokens
        self.tokens = self.documents = self.bytes = 0
        self._shards: list[NpyWriter] = []
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
        self._append_ids(encoded.ids)
        self.tokens += len(encoded.ids)
        self.documents += len(encoded.lengths)
        self.bytes += int(encoded.sizes.sum())

    def _append_ids(self, ids: TokenIds) -> None:
        while len(ids):
            if not self._shards or self._shards[-1].length == self._shard_tokens:
                path = self._directory / f"shard-{len(self._shards):05d}.npy"
                self._shards.append(self._files.enter_context(NpyWriter(path, self._dtype)))
            free = self._shard_tokens - self._shards[-1].length
            self._shards[-1].append(ids[:free])
            ids = ids[free:]

    def record(self) -> SplitRecord:
        """Return the manifest entry of the split, after it was closed."""
        shards = [
            ShardRecord(file=shard.path.name, tokens=shard.length, crc32=tuple(shard.checksums))
            for shard in self._shards
        ]
        return SplitRecord(documents=self.documents, tokens=self.tokens, bytes=self.bytes, shards=tuple(shards))
