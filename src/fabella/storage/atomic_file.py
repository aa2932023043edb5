"""Atomic write of one file."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from fabella.storage.messages import escaped, storage_errors
from fabella.storage.temp_files import BINARY, OPENS_DIRS, create_temp_file, fsync_dir

CHUNK_BYTES = 16 * 2**20
"""Largest single write call: a signal is handled between two of them, also while gigabytes are written."""


def atomic_write(path: Path, data: bytes) -> None:
    """Write or replace a file: temporary file, fsync, rename, fsync of the directory. Raises StorageError."""
    with storage_errors(path, f"writing {escaped(path.name)}", needed=len(data)):
        temp, descriptor = create_temp_file(path)
        try:
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
                if OPENS_DIRS:  # the descriptor holds the lock until the file is in its place
                    temp.replace(path)
            finally:
                os.close(descriptor)
            if not OPENS_DIRS:
                temp.replace(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a new file chunk by chunk, inside an ``atomic_dir`` block, which makes it durable. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, at most CHUNK_BYTES per call."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest[:CHUNK_BYTES]) :]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex, read in chunks. Raises StorageError."""
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
