"""Tests that files of every format and compression are read as documents, with a given or detected separator."""

import gzip
import json
import lzma
from pathlib import Path

import pyarrow as arrow
import pytest
import zstandard
from pyarrow import parquet

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.file_set import documents
from fabella.text.read_report import ReadReport

STORIES = ["Once there was a fox. 🦊", "Said the owl:\n\n“Who?”", "The end."]


def read(*paths: Path, separator: str = "auto", column: str = "auto", notes: ReadReport | None = None) -> list[str]:
    files = FilesSource(paths=tuple(map(str, paths)), separator=separator, column=column)
    return list(documents(files, DecodePolicy(notes=notes or ReadReport())))


def as_text(name: str) -> bytes:
    if name.startswith("a.jsonl"):
        return "".join(json.dumps({"text": story}) + "\n" for story in STORIES).encode()
    if name.startswith("a.csv"):
        return ("id,text\n" + "".join(f'{n},"{story}"\n' for n, story in enumerate(STORIES))).encode()
    return "\n<|endoftext|>\n".join(STORIES).encode()


def pack(name: str, data: bytes) -> bytes:
    suffix = name.rpartition(".")[2]
    packers = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}
    return packers[suffix](data) if suffix in packers else data


@pytest.mark.parametrize("packing", ["", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_every_format_and_compression_gives_the_same_documents(tmp_path: Path, name: str, packing: str) -> None:
    path = tmp_path / (name + packing)
    path.write_bytes(pack(path.name, as_text(name)))
    assert read(path) == STORIES


def test_a_directory_of_all_formats_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(as_text(name))
    parquet.write_table(arrow.table({"text": STORIES}), tmp_path / "a.parquet")
    assert read(tmp_path) == STORIES * 4


def test_a_file_of_unknown_kind_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "stories").write_bytes(as_text("a.txt"))
    assert read(tmp_path / "stories") == STORIES


def test_a_json_file_with_one_object_per_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_text("a.jsonl"))
    assert read(tmp_path / "a.json") == STORIES


def test_a_detected_separator_is_reported_with_its_documents(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(as_text("a.txt"))
    notes = ReadReport()
    read(tmp_path, notes=notes)
    assert list(notes.messages()) == [
        f"detected separator of {tmp_path / 'a.txt'} and 1 more: <|endoftext|> (6 documents)"
    ]


def test_a_given_separator_is_not_detected_and_keeps_other_markers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one <|endoftext|> two\n###\nthree")
    notes = ReadReport()
    assert read(tmp_path / "a.txt", separator="###", notes=notes) == ["one <|endoftext|> two", "three"]
    assert not list(notes.messages())


def test_a_separator_may_be_given_with_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n--\r\ntwo")
    assert read(tmp_path / "a.txt", separator="\r\n--\r\n") == ["one", "two"]


def test_an_empty_separator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(TextError, match=r"The separator is empty\. Use auto, file, blank-lines, lines"):
        read(tmp_path / "a.txt", separator="")


def test_an_empty_file_among_others_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("one")
    notes = ReadReport()
    assert read(tmp_path, notes=notes) == ["one"]
    assert f"{tmp_path / 'a.txt'} is empty" in notes.messages()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_damage_is_named_by_line_and_byte(tmp_path: Path, line_end: bytes) -> None:
    lines = [b"one", b"", b"two", b"caf\xe9 noir"] if line_end == b"\n" else [b"one", b"", b"two", b"caf\xe9"]
    (tmp_path / "a.txt").write_bytes(line_end.join(lines))
    for separator in ("file", "blank-lines", "lines"):
        with pytest.raises(TextError, match=r"a\.txt, line 4, byte 4: 0xE9 after 'caf' is not UTF-8"):
            read(tmp_path / "a.txt", separator=separator)


def test_a_named_column_applies_to_every_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "Fox", "text": "One."}')
    (tmp_path / "b.csv").write_text("text,title\nTwo.,Owl\n")
    assert read(tmp_path, column="title") == ["Fox", "Owl"]


def test_compressed_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(TextError, match=r"is compressed twice: Parquet compresses its columns\. Unpack it"):
        read(tmp_path / "a.parquet.gz")


def test_a_file_compressed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(gzip.compress(b"story")))
    with pytest.raises(TextError, match=r"a\.txt\.gz is not text: it is compressed with gzip"):
        read(tmp_path / "a.txt.gz")
