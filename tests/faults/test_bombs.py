"""Tests that decompression bombs and archives with hostile paths are refused, and that nothing is written.

Rows B6 and B7 of the fault matrix.
"""

import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as arrow
import pytest
import zstandard
from pyarrow import parquet

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.source import documents

# ---------------------------------------------------------------- B6

ZSTD = zstandard.ZstdCompressor()
TEN_GIGABYTES = 10 * 2**30
PART = 2**26
# Limits of the fault matrix: CPU seconds, because a busy machine must not fail the test, and memory of the process.
MAX_SECONDS = 5
MAX_MEGABYTES = 300


@cache
def repeated(pack: Callable[[bytes], bytes]) -> bytes:
    """Return 10 GB of text as concatenated compressed streams: quick to make, and as harmful as a single one."""
    return pack(b"a" * PART) * (TEN_GIGABYTES // PART)


def fast_xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def table() -> bytes:
    """Return a Parquet column of a single page that is a thousand times larger when unpacked."""
    out = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({"text": ["a" * (PART // 2)]}), out, compression="gzip")
    return out.getvalue().to_pybytes()


def nested_zip() -> bytes:
    """Return three levels of nested zip files, the innermost with a file of zeros."""
    inner = bytes(2**20)
    for _ in range(3):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for number in range(16):
                file.writestr(f"{number}.zip", inner)
        inner = out.getvalue()
    return inner


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a.txt.gz": (lambda: repeated(gzip.compress), "unpacks to more than 200 times its size"),
    "a.txt.xz": (lambda: repeated(fast_xz), "unpacks to more than 200 times"),
    "a.txt.zst": (lambda: repeated(ZSTD.compress), "unpacks to more than 200 times its size"),
    "a.jsonl.gz": (lambda: repeated(gzip.compress), "a decompression bomb"),
    "a.csv.gz": (lambda: repeated(gzip.compress), "a decompression bomb"),
    "nested.txt.gz": (lambda: gzip.compress(repeated(gzip.compress)), "is not text: it is compressed with gzip"),
    "a.parquet": (table, "unpacks to more than 200 times its size"),
    "42.zip": (nested_zip, "There is no text in"),
    "42.txt": (nested_zip, "is not text: it is a zip archive"),
}


@pytest.mark.fault("B6", cases=len(BOMBS))
def test_decompression_bombs_are_stopped_in_seconds_with_little_memory(tmp_path: Path) -> None:
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    files = [str(tmp_path / name) for name in BOMBS]
    command = [sys.executable, "-m", "tests.faults.read_bombs", *files]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert process.returncode == 0, process.stderr
    for (name, (_, outcome)), line in zip(BOMBS.items(), process.stdout.splitlines(), strict=True):
        result = json.loads(line)
        assert outcome in result["outcome"], name
        assert result["seconds"] < MAX_SECONDS, name
        assert result["megabytes"] < MAX_MEGABYTES, name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BOMBS)


# ---------------------------------------------------------------- B7


def tar(member: tarfile.TarInfo, *, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        file.addfile(member, io.BytesIO(b"x" * member.size))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


def zip_archive(*names: str, link: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            file.writestr(info, "../../outside.txt" if link else "x")
    return out.getvalue()


CRAFTED_ARCHIVES = {
    "parent.tar": tar(member("../outside.txt")),
    "absolute.tar": tar(member("/outside.txt")),
    "symlink.tar": tar(member("link", tarfile.SYMTYPE, "../outside.txt")),
    "hardlink.tar": tar(member("link", tarfile.LNKTYPE, "../outside.txt")),
    "device.tar": tar(member("device", tarfile.CHRTYPE)),
    "pipe.tar": tar(member("pipe", tarfile.FIFOTYPE)),
    "packed-parent.tar.gz": tar(member("../outside.txt"), mode="w:gz"),
    "parent.zip": zip_archive("../outside.txt"),
    "absolute.zip": zip_archive("/outside.txt"),
    "drive.zip": zip_archive("C:\\outside.txt"),
    "symlink.zip": zip_archive("link", link=True),
    "symlink-text.zip": zip_archive("link.txt", link=True),
}


@pytest.mark.fault("B7", cases=1)
@pytest.mark.parametrize("disguised", [False, True], ids=["by name", "disguised"])
@pytest.mark.parametrize("name", CRAFTED_ARCHIVES)
def test_nothing_outside_of_an_archive_is_read_or_written(tmp_path: Path, name: str, disguised: bool) -> None:
    """Archives are read without extracting them, so that no member can be written outside of the folder."""
    inside = tmp_path / "inside"
    inside.mkdir()
    file_name = name.replace(".tar", ".txt").replace(".zip", ".txt") if disguised else name
    (inside / file_name).write_bytes(CRAFTED_ARCHIVES[name])
    with pytest.raises(TextError, match=r"There is no text in|is a (?:tar|zip) archive"):
        list(documents(FilesSource(paths=(str(inside / file_name),))))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "inside",
        f"inside/{file_name}",
    ]


def test_there_are_twelve_archives() -> None:
    assert len(CRAFTED_ARCHIVES) == 12
