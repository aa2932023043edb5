"""Tests that readers are found by the suffixes of their files."""

import re
import sys
from pathlib import Path

import pytest

from fabella.config.data import FilesSource
from fabella.text import readers
from fabella.text.decode_policy import DecodePolicy
from fabella.text.file_set import documents
from fabella.text.paths import expand_paths
from fabella.text.readers import plain
from fabella.text.readers.reader import all_readers, format_suffix, reader_for

VERSES = """
from fabella.text.compression import read_blocks

SUFFIXES = frozenset({".verse"})


def read(path, options, policy):
    for line in b"".join(read_blocks(path)).decode().split("/"):
        yield from policy.decoded_text(line, lambda _raw, _at: str(path))
"""


@pytest.mark.parametrize(
    ("suffix", "module"),
    [(".txt", "plain"), (".md", "markdown"), (".jsonl", "jsonl"), (".json", "jsonl"), (".csv", "csv"), (".tsv", "csv"),
     (".parquet", "parquet")],
)  # fmt: skip
def test_each_suffix_has_the_reader_of_its_format(suffix: str, module: str) -> None:
    assert getattr(all_readers()[suffix], "__name__", "") == f"fabella.text.readers.{module}"


def test_a_reader_is_found_by_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "verse_reader.py").write_text(VERSES)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "package")])
    poems = tmp_path / "poems"
    poems.mkdir()
    (poems / "a.verse").write_text("One fox./Two foxes.")
    (poems / "b.txt").write_text("Three foxes.")
    assert expand_paths((str(poems),)) == [poems / "a.verse", poems / "b.txt"]
    source = FilesSource(paths=(str(poems),))
    assert list(documents(source, DecodePolicy())) == ["One fox.", "Two foxes.", "Three foxes."]


def test_the_reader_of_the_guide_reads_lyrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide-extend.md").read_text(encoding="utf-8")
    (tmp_path / "package").mkdir()
    code = next(code for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "# lrc.py" in code)
    (tmp_path / "package" / "lrc.py").write_text(code)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "package")])
    monkeypatch.delitem(sys.modules, "fabella.text.readers.lrc", raising=False)
    song = tmp_path / "song.lrc"
    song.write_text("[ti:Fox]\n[00:12.00]A fox <00:13.00>sings\n[00:15.00]to the moon\n")
    assert list(documents(FilesSource(paths=(str(song),)), DecodePolicy())) == ["A fox sings\nto the moon"]


def test_a_file_of_an_unknown_suffix_is_plain_text() -> None:
    assert reader_for(Path("stories")) is plain
    assert reader_for(Path("stories.log.gz")) is plain


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.txt", ".txt"), ("a.JSONL.GZ", ".jsonl"), ("stories", ""), ("a.b.csv.xz", ".csv"), ("a.gz", ""), (".zst", "")],
)
def test_the_suffix_of_a_compressed_file_is_that_of_its_content(name: str, suffix: str) -> None:
    assert format_suffix(Path(name)) == suffix
