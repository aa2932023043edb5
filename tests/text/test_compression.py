"""Tests that compressed files are decompressed completely and in bounded memory, and that bombs are refused."""

import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from fabella.errors import TextError
from fabella.text import compression
from fabella.text.archives.members import is_archive, member_names
from fabella.text.compression import BLOCK, FREE, RATIO, read_blocks

STORY = ("Once upon a time there was a fox.\n" * 50_000).encode()

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
packings = pytest.mark.parametrize("suffix", PACK)


def write(folder: Path, suffix: str, data: bytes) -> Path:
    path = folder / f"stories.txt{suffix}"
    path.write_bytes(data)
    return path


@packings
def test_a_compressed_file_is_decompressed(tmp_path: Path, suffix: str) -> None:
    assert b"".join(read_blocks(write(tmp_path, suffix, PACK[suffix](STORY)))) == STORY


@packings
def test_blocks_are_small_however_large_the_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, PACK[suffix](STORY * 4))
    # zstd has no limit on output, only one on input: 1 KiB of it can mean 32 blocks.
    assert max(map(len, read_blocks(path))) <= (32 * BLOCK if suffix == ".zst" else BLOCK)


def test_a_plain_file_is_read_in_blocks(tmp_path: Path) -> None:
    path = write(tmp_path, "", STORY)
    assert [len(block) for block in read_blocks(path)] == [BLOCK, len(STORY) - BLOCK]


@packings
def test_concatenated_streams_are_one_text(tmp_path: Path, suffix: str) -> None:
    """``cat a.gz b.gz > c.gz``; gzip and xz allow zeros between and after."""
    padding = b"" if suffix == ".zst" else b"\0" * 512
    both = PACK[suffix](b"first ") + padding + PACK[suffix](b"second") + padding
    assert b"".join(read_blocks(write(tmp_path, suffix, both))) == b"first second"


@packings
def test_a_stream_may_end_at_any_byte_of_a_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "ZSTD_STEP", 3)
    parts = [f"story {number} ".encode() for number in range(20)]
    path = write(tmp_path, suffix, b"".join(map(PACK[suffix], parts)))
    assert b"".join(read_blocks(path)) == b"".join(parts)


@packings
def test_an_empty_compressed_file_has_no_documents(tmp_path: Path, suffix: str) -> None:
    assert b"".join(read_blocks(write(tmp_path, suffix, PACK[suffix](b"")))) == b""


@packings
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    whole = PACK[suffix](STORY)
    path = write(tmp_path, suffix, whole[: int(keep * len(whole)) if keep > 0 else -1])
    with pytest.raises(TextError, match=r"Cannot decompress .*stories\.txt\.\w+: .*Download or compress it again"):
        list(read_blocks(path))


@packings
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str) -> None:
    damaged = bytearray(PACK[suffix](STORY))
    damaged[len(damaged) // 2] ^= 0x55
    damaged[4:8] = b"\xff\xff\xff\xff"
    with pytest.raises(TextError, match="Cannot decompress"):
        list(read_blocks(write(tmp_path, suffix, bytes(damaged))))


@packings
def test_an_uncompressed_file_with_a_compressed_suffix_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(TextError, match=f"is not a {suffix} file: it is text, 'Once upon a time.'"):
        list(read_blocks(write(tmp_path, suffix, b"Once upon a time.")))


@packings
def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, PACK[suffix](bytes(2 * FREE)))
    unpacked: list[int] = []
    with pytest.raises(TextError, match=f"unpacks to more than {RATIO} times its size .*bomb.*If you trust it"):
        unpacked.extend(map(len, read_blocks(path)))
    assert sum(unpacked) <= FREE + RATIO * path.stat().st_size


@packings
def test_a_small_file_may_expand_by_any_ratio(tmp_path: Path, suffix: str) -> None:
    """Equal lines compress a thousandfold, which is harmless while they are few."""
    assert sum(map(len, read_blocks(write(tmp_path, suffix, PACK[suffix](b"a" * (FREE // 2)))))) == FREE // 2


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        (".xz", lambda: lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}])),  # takes seconds
        (".zst", lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00"),
    ],
)
def test_a_file_that_needs_a_huge_history_is_refused(tmp_path: Path, suffix: str, packed: Callable[[], bytes]) -> None:
    with pytest.raises(TextError, match=r"Cannot decompress .*: .*[Mm]emory"):
        list(read_blocks(write(tmp_path, suffix, packed())))


def test_zst_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(TextError, match=r"Reading \.zst needs zstandard\. pip install 'fabella\[zstd\]'"):
        list(read_blocks(write(tmp_path, ".zst", b"")))


def test_an_unreadable_file_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"Cannot read .*gone\.txt: No such file or directory"):
        list(read_blocks(tmp_path / "gone.txt"))
    with pytest.raises(TextError, match=r"Cannot read .*: Is a directory"):
        list(read_blocks(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message", "hint"),
    [
        (
            "plain.txt.gz",
            b"Once upon a time",
            "is not a .gz file: it is text, 'Once upon a time'",
            "Name it plain.txt.",
        ),
        ("stories.zst", "Füchse und Bären\n".encode() * 99, "it is text", "Name it stories.txt."),
        ("a.txt.gz", zstandard.ZstdCompressor().compress(STORY), "begins as a .zst file does", "Name it a.txt.zst."),
        (
            "a.jsonl.zip",
            gzip.compress(STORY),
            "is not a .zip file: it begins as a .gz file does",
            "Name it a.jsonl.gz.",
        ),
        ("a.tar", gzip.compress(STORY), "is not a .tar file: it begins as a .gz file does", "Name it a.tar.gz."),
        ("a.txt.bz2", b"PK\x03\x04 and more", "begins as a .zip file does", "Name it a.txt.zip."),
        ("damaged.txt.gz", gzip.compress(STORY)[:3] + b"\xff" * 99, "Cannot decompress", "compress it again."),
        ("damaged.zip", b"\0\1\2" * 99, "Cannot unpack", "pack it again."),
        ("empty.zip", b"", "Cannot unpack", "pack it again."),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    tmp_path: Path, name: str, data: bytes, message: str, hint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TextError, match=re.escape(message)) as caught:
        list(member_names(path) if is_archive(path) else read_blocks(path))
    assert str(caught.value.hint).endswith(hint)
