"""One file, whole or not at all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from fabella.storage.messages import escaped, storage_errors
from fabella.storage.temp_files import create_temp_file, fsync_folder

# One write call at most, so that a signal is answered while gigabytes are being written.
CHUNK_BYTES = 16 * 2**20


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: aside, fsync, rename, fsync of its folder. Replaces an older one."""
    with storage_errors(path, f"writing {escaped(path.name)}", needed=len(data)):
        aside, lock = create_temp_file(path)
        try:
            write_all(lock, data)
            os.fsync(lock)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)
        fsync_folder(path.parent)


def write_chunks(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a new file piece by piece, for use in a ``whole_folder``, which makes it durable. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for part in parts:
            write_all(descriptor, part)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, in pieces of at most CHUNK_BYTES."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest[:CHUNK_BYTES]) :]


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read piece by piece."""
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
