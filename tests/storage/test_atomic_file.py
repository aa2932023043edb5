"""Tests that a file is written atomically."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.storage import atomic_write, sha256_of, write_chunks
from fabella.storage.atomic_file import CHUNK_BYTES


def test_a_file_is_written_and_no_temporary_is_left(tmp_path: Path) -> None:
    atomic_write(tmp_path / "latest", b"step-00000100\n")
    assert [item.name for item in tmp_path.iterdir()] == ["latest"]
    assert (tmp_path / "latest").read_bytes() == b"step-00000100\n"


def test_a_file_replaces_an_older_one_in_one_rename(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    atomic_write(path, b"old")
    with path.open("rb") as reader:
        atomic_write(path, b"new, and longer")
        assert reader.read() == b"old"  # an open reader still reads the complete old file
    assert path.read_bytes() == b"new, and longer"


def test_a_failed_write_keeps_the_older_file_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_write(tmp_path / "latest", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"^disk full: writing latest needs 3 bytes, .* are free at .*latest"):
        atomic_write(tmp_path / "latest", b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["latest"]
    assert (tmp_path / "latest").read_bytes() == b"old"


def test_a_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"writing latest failed at .*: no such file or directory\."):
        atomic_write(tmp_path / "missing" / "latest", b"new")


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_chunks(tmp_path / "parts", [b"0123456789" * 3, b"", memoryview(b"end")])
    assert (tmp_path / "parts").read_bytes() == b"0123456789" * 3 + b"end"


def test_no_single_write_is_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sizes = os.write, list[int]()

    def recorded(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", recorded)
    write_chunks(tmp_path / "large", [bytes(CHUNK_BYTES + 5)])
    assert sizes == [CHUNK_BYTES, 5]


def test_chunks_never_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "existing").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_chunks(tmp_path / "existing", [b"new"])


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"Once upon a time")
    assert sha256_of(tmp_path / "text") == hashlib.sha256(b"Once upon a time").hexdigest()
    with pytest.raises(StorageError, match="reading missing failed"):
        sha256_of(tmp_path / "missing")
