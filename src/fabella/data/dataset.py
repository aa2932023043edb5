"""Prepared data: a folder with the ids of every document, the tokenizer that made them, and where they come from.

manifest.json            counts, sha256 of every file, the source, remarks of the doctor
tokenizer/
train/shard-00000.npy    ids (uint16 or uint32), documents in source order, each ended by the tokenizer's end
train/offsets.npy        where each document begins, and the last one ends, in ids
train/document_bytes.npy bytes of UTF-8 of each document
validation/              the same
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fabella.config.base import ConfigModel
from fabella.data.npy import BLOCK_BYTES, checksum, corrupt_error, header, open_array
from fabella.errors import DataError, PreparedDataError, StorageError
from fabella.storage import manifest_entries, read_manifest, require_size, sha256_of
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

KIND = "prepared data"
FORMAT = 1
SPLITS = ("train", "validation")
INT64 = np.dtype("<i8")
OFFSETS, DOCUMENT_BYTES = "offsets.npy", "document_bytes.npy"

TokenIds = NDArray[np.unsignedinteger[Any]]


class ShardRecord(ConfigModel):
    """One shard in the manifest; ``crc32`` is of every MiB of ids."""

    file: str
    tokens: int = Field(ge=0)
    crc32: tuple[str, ...] = Field(strict=False)


class SplitRecord(ConfigModel):
    """One split in the manifest."""

    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    bytes: int = Field(ge=0)
    shards: tuple[ShardRecord, ...] = Field(strict=False, min_length=1)


def dtype_for(vocab_size: int) -> "np.dtype[Any]":
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class Split:
    """The ids of one side, training or validation, as memory maps."""

    def __init__(self, folder: Path, record: SplitRecord, vocab_size: int) -> None:
        self.name = folder.name
        self.tokens = record.tokens
        self.documents = record.documents
        self.bytes = record.bytes
        self.vocab_size = vocab_size
        self._folder = folder
        dtype = dtype_for(vocab_size)
        self._files = [shard.file for shard in record.shards]
        self._shards: list[TokenIds] = [open_array(folder / shard.file, dtype, shard.tokens) for shard in record.shards]
        self._starts = np.cumsum([0, *(shard.tokens for shard in record.shards)])
        if self._starts[-1] != self.tokens:
            raise corrupt_error(
                f"{self.name}: its shards hold {self._starts[-1]} ids, its manifest says {self.tokens}."
            )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document begins in the ids, and the last one ends, [documents + 1]."""
        offsets = open_array(self._folder / OFFSETS, INT64, self.documents + 1)
        if offsets[0] != 0 or offsets[-1] != self.tokens or (np.diff(offsets) < 1).any():
            raise corrupt_error(f"{self.name}/{OFFSETS} does not lead from 0 to {self.tokens} in rising order.")
        return offsets

    @cached_property
    def document_bytes(self) -> NDArray[np.int64]:
        """Bytes of UTF-8 of each document, [documents]."""
        return open_array(self._folder / DOCUMENT_BYTES, INT64, self.documents)

    def read(self, start: int, stop: int) -> TokenIds:
        """The ids from ``start`` to ``stop - 1``, across shards. Raises PreparedDataError for an unknown id."""
        ids = self._joined(start, stop)
        self._check(ids[None], np.array([start]))
        return ids

    def gather(self, starts: NDArray[np.int64], length: int) -> TokenIds:
        """``length`` ids from each of ``starts``, [B length]: one indexing of a memory map for each shard."""
        result = np.empty((len(starts), length), dtype=self._shards[0].dtype)
        shard_of = np.searchsorted(self._starts, starts, side="right") - 1
        whole = starts + length <= self._starts[shard_of + 1]
        for shard in np.unique(shard_of[whole]):
            rows = np.flatnonzero(whole & (shard_of == shard))
            windows = np.lib.stride_tricks.sliding_window_view(self._shards[shard], length)
            result[rows] = windows[starts[rows] - self._starts[shard]]
        for row in np.flatnonzero(~whole):
            result[row] = self._joined(int(starts[row]), int(starts[row]) + length)
        self._check(result, starts)
        return result

    def _joined(self, start: int, stop: int) -> TokenIds:
        assert 0 <= start <= stop <= self.tokens, f"[{start}, {stop}) is outside of {self.tokens} ids"
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts: list[TokenIds] = []
        for shard in range(first, len(self._shards)):
            if self._starts[shard] >= stop:
                break
            begin = self._starts[shard]
            parts.append(self._shards[shard][max(start - begin, 0) : stop - begin])
        return np.concatenate(parts) if parts else np.empty(0, dtype=self._shards[0].dtype)

    def _check(self, rows: TokenIds, starts: NDArray[np.int64]) -> None:
        """Raise PreparedDataError for an id outside of the vocabulary; ``rows[b]`` were read at ``starts[b]``."""
        if rows.size == 0 or rows.max() < self.vocab_size:
            return
        row, column = np.argwhere(rows >= self.vocab_size)[0]
        position = int(starts[row] + column)
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        where = f"{self.name}/{self._files[shard]}, offset {position - self._starts[shard]}"
        raise corrupt_error(f"{where}: id {rows[row, column]} is outside of the vocabulary of {self.vocab_size}.")


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """A prepared folder, opened."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: Split
    validation: Split

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the content of all files: equal fingerprints, equal ids in equal order."""
        return fingerprint(self.manifest)


def fingerprint(manifest: dict[str, Any]) -> str:
    """sha256 (hex) over the names and sha256 of all files of a manifest."""
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def is_dataset(folder: Path) -> bool:
    """Whether ``folder`` is prepared data, damaged or not."""
    try:
        return read_manifest(folder).get("kind") == KIND
    except StorageError:
        return all((folder / split / OFFSETS).exists() for split in SPLITS)


def open_dataset(folder: Path, *, full: bool = False) -> TokenizedDataset:
    """Open prepared data. Sizes and headers are always checked, the sha256 of every file when ``full``.

    Raises PreparedDataError naming what is damaged, and where.
    """
    if not folder.is_dir():
        raise PreparedDataError(
            f"There is no folder {folder} with prepared data.", hint="Give a folder that 'fabella prepare' wrote."
        )
    try:
        manifest = read_manifest(folder)
        if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
            what = f"{manifest.get('kind', 'something else')!s:.40} of format {manifest.get('format')!s:.20}"
            raise PreparedDataError(
                f"{folder} holds {what}; prepared data of format {FORMAT} was expected.",
                hint="Give a folder that 'fabella prepare' wrote.",
            )
        for name in manifest_entries(folder, manifest):
            require_size(folder, manifest, name)
        records = [SplitRecord.model_validate(manifest[split]) for split in SPLITS]
        if full:
            _verify(folder, manifest, records)
        return _opened(folder, manifest, records)
    except StorageError as error:
        raise corrupt_error(error.message) from error
    except (KeyError, TypeError, ValidationError) as error:
        raise corrupt_error(
            f"{folder / 'manifest.json'} does not describe prepared data: {str(error)[:200]}."
        ) from error


def _opened(folder: Path, manifest: dict[str, Any], records: Sequence[SplitRecord]) -> TokenizedDataset:
    tokenizer = loading.load(folder / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
        raise corrupt_error(f"{folder / 'tokenizer'} is not the tokenizer that the ids were made with.")
    train, validation = (
        Split(folder / name, record, tokenizer.vocab_size) for name, record in zip(SPLITS, records, strict=True)
    )
    return TokenizedDataset(folder, manifest, tokenizer, train, validation)


def _verify(folder: Path, manifest: dict[str, Any], records: Sequence[SplitRecord]) -> None:
    """Compare every file with its sha256; in a shard, say at which offset it differs."""
    shards = {
        f"{name}/{shard.file}": shard for name, record in zip(SPLITS, records, strict=True) for shard in record.shards
    }
    dtype = dtype_for(manifest["tokenizer"]["vocab_size"])
    for name, entry in manifest["files"].items():
        if sha256_of(folder / name) != entry["sha256"]:
            where = _offset(folder / name, shards[name], dtype) if name in shards else ""
            raise corrupt_error(f"{name}{where} is damaged: its content does not match its sha256 in the manifest.")


def _offset(path: Path, shard: ShardRecord, dtype: "np.dtype[Any]") -> str:
    """Which ids of a damaged shard differ from what was written."""
    with path.open("rb") as file:
        file.seek(len(header(dtype, shard.tokens)))
        for number, expected in enumerate(shard.crc32):
            if checksum(file.read(BLOCK_BYTES)) != expected:
                first, ids = number * BLOCK_BYTES // dtype.itemsize, BLOCK_BYTES // dtype.itemsize
                return f", offset {first} to {min(first + ids, shard.tokens) - 1},"
    return ", its header,"


def too_small(split: Split, needed: int, window: int) -> DataError:
    """The error for a split without a single window."""
    times = -(-needed // max(split.tokens, 1))
    return DataError(
        f"The {split.name} text is too small: {split.tokens:,} tokens, and one window of {window:,} needs {needed:,}.",
        hint=f"Bring {times} times more text, or lower data.sequences.length to {max(split.tokens - 1, 1):,} or less.",
    )
