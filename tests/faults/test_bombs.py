"""Files that are small on disk and huge when unpacked, and archives that lead elsewhere: stopped, nothing written.

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
# What the matrix allows: processor seconds, since a test must not fail for a busy machine, and the whole process.
MOST_SECONDS = 5
MOST_MEGABYTES = 300


@cache
def repeated(pack: Callable[[bytes], bytes]) -> bytes:
    """10 GB of text in as many packed streams as it takes: quickly made, and as bad as a single one."""
    return pack(b"a" * PART) * (TEN_GIGABYTES // PART)


def fast_xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def table() -> bytes:
    """A column of a single page that unpacks a thousandfold."""
    out = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({"text": ["a" * (PART // 2)]}), out, compression="gzip")
    return out.getvalue().to_pybytes()


def nested_zip() -> bytes:
    """A zip of zips of zips, each holding a file of zeros."""
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
    "a.jsonl.gz": (lambda: repeated(gzip.compress), "the line is longer than 16,777,216 bytes"),
    "a.csv.gz": (lambda: repeated(gzip.compress), "the line is longer than 16,777,216 bytes"),
    "nested.txt.gz": (lambda: gzip.compress(repeated(gzip.compress)), "is not text: it is compressed with gzip"),
    "a.parquet": (table, "unpacks to more than 200 times its size"),
    "42.zip": (nested_zip, "is an archive"),
    "42.txt": (nested_zip, "is not text: it is a zip archive"),
}


@pytest.mark.fault("B6", cases=len(BOMBS))
def test_decompression_bombs_are_stopped_in_seconds_with_little_memory(tmp_path: Path) -> None:
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    files = [str(tmp_path / name) for name in BOMBS]
    words = [sys.executable, "-m", "tests.faults.read_bombs", *files]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    for (name, (_, outcome)), line in zip(BOMBS.items(), done.stdout.splitlines(), strict=True):
        found = json.loads(line)
        assert outcome in found["outcome"], name
        assert found["seconds"] < MOST_SECONDS, name
        assert found["megabytes"] < MOST_MEGABYTES, name
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


CRAFTED = {
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
    "case.zip": zip_archive("Story.txt", "story.TXT"),
}


@pytest.mark.fault("B7", cases=1)
@pytest.mark.parametrize("disguised", [False, True], ids=["by name", "disguised"])
@pytest.mark.parametrize("name", CRAFTED)
def test_an_archive_is_refused_without_extracting(tmp_path: Path, name: str, disguised: bool) -> None:
    """Fabella unpacks no archives: there is no code that could be led outside."""
    inside = tmp_path / "inside"
    inside.mkdir()
    called = name.replace(".tar", ".txt").replace(".zip", ".txt") if disguised else name
    (inside / called).write_bytes(CRAFTED[name])
    with pytest.raises(TextError, match=r"is an archive|is a (?:tar|zip) archive") as error:
        list(documents(FilesSource(paths=(str(inside / called),))))
    assert "Unpack it, then give" in error.value.hint
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "inside",
        f"inside/{called}",
    ]


def test_there_are_twelve_archives() -> None:
    assert len(CRAFTED) == 12
