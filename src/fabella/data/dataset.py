"""Tokenized dataset on disk: the ids of every document, their tokenizer and their source.

manifest.json            counts, sha256 of every file, the source, the data quality report
tokenizer/
train/shard-00000.npy    ids (uint16 or uint32), documents in source order, each followed by the EOS id
train/offsets.npy        position of the first id of each document, and the total number of ids
train/loss-mask-00000.npy  1 for each id that is learned (uint8), if ``data.loss_on`` is not all
train/document_bytes.npy bytes of UTF-8 of each document
validation/              the same
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fabella.config.base import ConfigModel
from fabella.data.npy import BLOCK_BYTES, ShardedArray, checksum, corrupt_error, header, open_array
from fabella.errors import DataError, PreparedDataError, StorageError
from fabella.storage import MANIFEST, escaped, manifest_entries, read_manifest, recognize, require_size, sha256_of
from fabella.storage.messages import escaped_path
from fabella.storage.recognize import DATASET
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

KIND = "prepared data"
FORMAT = 1
SPLITS = ("train", "validation")
INT64 = np.dtype("<i8")
MASK_DTYPE = np.dtype("u1")
OFFSETS, DOCUMENT_BYTES = "offsets.npy", "document_bytes.npy"
MAX_NAMED = 5
"""Datasets named in an error."""

TokenIds = NDArray[np.unsignedinteger[Any]]


class ShardRecord(ConfigModel):
    """Shard in the manifest; ``crc32`` has one checksum per MiB of ids."""

    file: str
    tokens: int = Field(ge=0)
    crc32: tuple[str, ...] = Field(strict=False)


class SplitRecord(ConfigModel):
    """Split in the manifest."""

    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    bytes: int = Field(ge=0)
    shards: tuple[ShardRecord, ...] = Field(strict=False, min_length=1)
    loss_mask: tuple[ShardRecord, ...] = Field(default=(), strict=False)
    """1 for each id that is learned, 0 for others; none if all ids are learned"""
    learned_tokens: int = Field(default=0, ge=0)
    learned_bytes: int = Field(default=0, ge=0)
    """Ids that are learned and the bytes of their text; 0 without a mask"""
    without_answer: int = Field(default=0, ge=0)
    """Documents of which nothing is learned"""


class PartRecord(ConfigModel):
    """Part of a mixture in the manifest: its documents in the training split, which follow those of earlier parts."""

    source: str
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    bytes: int = Field(ge=0)
    validation_documents: int = Field(ge=0)


def dtype_for(vocab_size: int) -> "np.dtype[Any]":
    """Return the smaller of uint16 and uint32 that can represent every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class Split:
    """Ids of one split, ``train`` or ``validation``, as memory maps."""

    loss_mask: ShardedArray | None = None
    """1 for each id that is learned, 0 for others; None if all are learned."""

    def __init__(self, directory: Path, record: SplitRecord, vocab_size: int) -> None:
        self.name = directory.name
        self.tokens = record.tokens
        self.documents = record.documents
        self.bytes = record.bytes
        self.vocab_size = vocab_size
        self._directory = directory
        if record.loss_mask:
            masks = [open_array(directory / shard.file, MASK_DTYPE, shard.tokens) for shard in record.loss_mask]
            self.loss_mask = ShardedArray(masks)
            if len(self.loss_mask) != self.tokens:
                raise corrupt_error(f"{self.name}: the loss mask does not have {self.tokens} ids.")
        self.learned_tokens = record.learned_tokens if record.loss_mask else record.tokens
        self.learned_bytes = record.learned_bytes if record.loss_mask else record.bytes
        self.without_answer = record.without_answer
        dtype = dtype_for(vocab_size)
        self._files = [shard.file for shard in record.shards]
        self._ids = ShardedArray([open_array(directory / shard.file, dtype, shard.tokens) for shard in record.shards])
        if len(self._ids) != self.tokens:
            raise corrupt_error(
                f"{self.name}: the shards have {len(self._ids)} ids, but the manifest says {self.tokens}."
            )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Position of the first id of each document, then the total number of ids, [documents + 1]."""
        offsets = open_array(self._directory / OFFSETS, INT64, self.documents + 1)
        if offsets[0] != 0 or offsets[-1] != self.tokens or (np.diff(offsets) < 1).any():
            raise corrupt_error(f"{self.name}/{OFFSETS} does not rise from 0 to {self.tokens}.")
        return offsets

    @cached_property
    def document_bytes(self) -> NDArray[np.int64]:
        """Bytes of UTF-8 of each document, [documents]."""
        return open_array(self._directory / DOCUMENT_BYTES, INT64, self.documents)

    def read(self, start: int, stop: int) -> TokenIds:
        """Return the ids from ``start`` to ``stop - 1``, across shards. Raises PreparedDataError for an invalid id."""
        ids = self._ids.read(start, stop)
        self._check(ids[None], np.array([start]))
        return ids

    def gather(self, starts: NDArray[np.int64], length: int) -> TokenIds:
        """Return ``length`` ids from each of ``starts``, [B, length]: one index of a memory map per shard."""
        result = self._ids.gather(starts, length)
        self._check(result, starts)
        return result

    def learned(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of learned ids from each start to before its stop; both never fall."""
        mask = self.loss_mask
        return stops - starts if mask is None else mask.sums_before(stops) - mask.sums_before(starts)

    def _check(self, rows: TokenIds, starts: NDArray[np.int64]) -> None:
        """Raise PreparedDataError for an id outside of the vocabulary; ``rows[b]`` was read at ``starts[b]``."""
        if rows.size == 0 or rows.max() < self.vocab_size:
            return
        row, column = np.argwhere(rows >= self.vocab_size)[0]
        position = int(starts[row] + column)
        shard, offset = self._ids.locate(position)
        where = f"{self.name}/{self._files[shard]}, offset {offset}"
        raise corrupt_error(f"{where}: id {rows[row, column]} is outside of the vocabulary of {self.vocab_size}.")


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """Open tokenized dataset."""

    path: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: Split
    validation: Split
    parts: tuple[PartRecord, ...] = ()
    """Parts of a mixture, in the order of their documents; none for one source, and for the head of a stream."""

    @property
    def fingerprint(self) -> str:
        """Hash (sha256, hex) of the contents of all files: equal fingerprints mean equal ids in equal order."""
        return fingerprint(self.manifest)


def fingerprint(manifest: dict[str, Any]) -> str:
    """Return sha256 (hex) of the names and hashes of all files of a manifest."""
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def is_dataset(directory: Path) -> bool:
    """Return whether ``directory`` is a tokenized dataset, corrupt or not."""
    try:
        return read_manifest(directory).get("kind") == KIND
    except StorageError:
        return all((directory / split / OFFSETS).exists() for split in SPLITS)


def open_dataset(directory: Path, *, full: bool = False) -> TokenizedDataset:
    """Open a tokenized dataset. Checks sizes and headers, and with ``full`` the sha256 of every file.

    Raises PreparedDataError with the corrupt file and position.
    """
    if not directory.is_dir():
        raise PreparedDataError(
            f"There is no prepared dataset {directory}.", hint="Give a directory written by fabella prepare."
        )
    _reject_other_directory(directory)
    try:
        manifest = read_manifest(directory)
        if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
            what = f"{manifest.get('kind', 'something else')!s:.40} of format {manifest.get('format')!s:.20}"
            raise PreparedDataError(
                f"{directory} contains {what}; expected prepared data of format {FORMAT}.",
                hint="Give a directory written by fabella prepare.",
            )
        for name in manifest_entries(directory, manifest):
            require_size(directory, manifest, name)
        records = [SplitRecord.model_validate(manifest[split]) for split in SPLITS]
        if full:
            _verify(directory, manifest, records)
        return _opened(directory, manifest, records)
    except StorageError as error:
        raise corrupt_error(error.message) from error
    except (KeyError, TypeError, ValidationError) as error:
        raise corrupt_error(
            f"{directory / 'manifest.json'} does not describe a prepared dataset: {str(error)[:200]}."
        ) from error


def datasets_in(directory: Path) -> list[Path]:
    """Return the datasets that are directly in ``directory``, sorted by name."""
    return [path for path in sorted(directory.iterdir()) if is_dataset(path)] if directory.is_dir() else []


def _reject_other_directory(directory: Path) -> None:
    """Raise PreparedDataError for a directory that is no dataset, not even a corrupt one: it must not be deleted."""
    known = recognize(directory)
    if is_dataset(directory) or (known is not None and known.kind == DATASET):
        return
    name = escaped_path(directory)
    if inside := [quote(escaped_path(path)) for path in datasets_in(directory)]:
        more = f" and {len(inside) - MAX_NAMED:,} more" if len(inside) > MAX_NAMED else ""
        raise PreparedDataError(
            f"{name} contains prepared datasets.", hint=f"Give one of them: {', '.join(inside[:MAX_NAMED])}{more}."
        )
    if known is not None or not (directory / MANIFEST).exists():
        what = known.kind if known else f"a directory without {MANIFEST}"
        raise PreparedDataError(
            f"{name} is {what}, not a prepared dataset.", hint="Give a directory written by fabella prepare."
        )


def _opened(directory: Path, manifest: dict[str, Any], records: Sequence[SplitRecord]) -> TokenizedDataset:
    tokenizer = loading.load(directory / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
        raise corrupt_error(f"{directory / 'tokenizer'} is not the tokenizer of the ids.")
    train, validation = (
        Split(directory / name, record, tokenizer.vocab_size) for name, record in zip(SPLITS, records, strict=True)
    )
    parts = tuple(PartRecord.model_validate(part) for part in manifest.get("parts", ()))
    if parts and (sum(p.documents for p in parts), sum(p.tokens for p in parts)) != (train.documents, train.tokens):
        raise corrupt_error(f"The parts in {directory / 'manifest.json'} are not those of the training split.")
    return TokenizedDataset(directory, manifest, tokenizer, train, validation, parts)


def _verify(directory: Path, manifest: dict[str, Any], records: Sequence[SplitRecord]) -> None:
    """Compare every file with its sha256; for a shard, find the offset of the difference."""
    dtype = dtype_for(manifest["tokenizer"]["vocab_size"])
    shards = {
        f"{name}/{shard.file}": (shard, of)
        for name, record in zip(SPLITS, records, strict=True)
        for group, of in ((record.shards, dtype), (record.loss_mask, MASK_DTYPE))
        for shard in group
    }
    for name, entry in manifest["files"].items():
        if sha256_of(directory / name) != entry["sha256"]:
            where = _offset(directory / name, *shards[name]) if name in shards else ""
            raise corrupt_error(f"{name}{where} is corrupt: its content does not match the sha256 in the manifest.")


def _offset(path: Path, shard: ShardRecord, dtype: "np.dtype[Any]") -> str:
    """Return the range of ids of a corrupt shard that differ from what was written."""
    with path.open("rb") as file:
        file.seek(len(header(dtype, shard.tokens)))
        for number, expected in enumerate(shard.crc32):
            if checksum(file.read(BLOCK_BYTES)) != expected:
                first, ids = number * BLOCK_BYTES // dtype.itemsize, BLOCK_BYTES // dtype.itemsize
                return f", offset {first} to {min(first + ids, shard.tokens) - 1},"
    return ", its header,"


def too_small_error(split: Split, needed: int, length: int, part: PartRecord | None = None) -> DataError:
    """Return the error for a split, or a ``part`` of it, without a single sequence of ``length`` tokens."""
    tokens = part.tokens if part else split.tokens
    name = f"part {escaped(part.source)} of the mixture" if part else f"{split.name} split"
    return DataError(
        f"The {name} is too small: {tokens:,} tokens; a sequence of {length:,} needs {needed:,}.",
        hint=too_small_hint(tokens, needed),
    )


def too_small_hint(tokens: int, needed: int) -> str:
    """Return what to do about a split of ``tokens`` tokens where a sequence needs ``needed``."""
    most = max(tokens - 1, 1)
    return (
        f"Use {-(-needed // max(tokens, 1))} times more text, or shorter sequences: data.sequences.length={most} "
        f"data.sequences.stride={most} (prepare: --context-length {most})."
    )
