"""Tests that the text column of a Parquet file is read as documents, for every Arrow type."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet as pq

from fabella.errors import TextError
from fabella.text.compression import FREE, RATIO
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.parquet import ROWS, read, refuse_bomb

STORIES = [f"Once there were {number} foxes. 🦊" for number in range(3 * ROWS)]


def write(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "stories.parquet"
    pq.write_table(arrow.table(columns), path, **options)
    return path


def test_each_rows_text_is_a_document(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": range(len(STORIES)), "story": STORIES}, row_group_size=70)
    policy = DecodePolicy()
    assert list(read(path, ReadOptions(column="auto"), policy)) == STORIES
    assert f"detected text column of {path}: story (300 documents)" in policy.notes.messages()


@pytest.mark.parametrize(
    "arrow_type",
    [
        arrow.array(STORIES, arrow.large_string()),
        arrow.array(STORIES).dictionary_encode(),
        arrow.array(STORIES, arrow.string_view()),
        arrow.array([story.encode() for story in STORIES], arrow.binary()),
    ],
    ids=["large", "dictionary", "view", "binary"],
)
def test_text_may_have_any_arrow_type(tmp_path: Path, arrow_type: Any) -> None:
    path = write(tmp_path, {"text": arrow_type, "title": ["a much longer title than its story is" * 9] * len(STORIES)})
    assert list(read(path, ReadOptions(column="text"), DecodePolicy())) == STORIES


def test_a_missing_value_is_an_empty_document(tmp_path: Path) -> None:
    policy = DecodePolicy()
    assert list(read(write(tmp_path, {"text": ["one", None, "", "two"]}), ReadOptions(column="auto"), policy)) == [
        "one",
        "two",
    ]
    assert policy.notes.empty == 2


def test_damage_is_handled_by_the_policy(tmp_path: Path) -> None:
    """Arrow does not check that a string is UTF-8."""
    damaged = arrow.Array.from_buffers(arrow.string(), 2, arrow.array([b"fine", b"caf\xe9"], arrow.binary()).buffers())
    path = write(tmp_path, {"text": damaged})
    with pytest.raises(TextError, match=r"stories\.parquet, row 2, in 'text': 0xE9 after 'caf' is not UTF-8"):
        list(read(path, ReadOptions(column="auto"), DecodePolicy()))
    assert list(read(path, ReadOptions(column="auto"), DecodePolicy(decode_errors="replace"))) == ["fine", "caf\ufffd"]


def test_a_table_without_rows_has_no_documents(tmp_path: Path) -> None:
    assert (
        list(
            read(write(tmp_path, {"text": arrow.array([], arrow.string())}), ReadOptions(column="auto"), DecodePolicy())
        )
        == []
    )


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("auto", r"stories\.parquet has no text column in its first 1 rows\. Set the column"),
        ("wrods", r"stories\.parquet has no column 'wrods'\. Did you mean 'words'\?"),
        ("id", r"Column 'id' of .*stories\.parquet contains int64, not text\."),
    ],
)
def test_a_column_without_text_is_refused(tmp_path: Path, column: str, problem: str) -> None:
    path = write(tmp_path, {"id": [1], "words": [["a", "b"]]})
    with pytest.raises(TextError, match=problem):
        list(read(path, ReadOptions(column=column), DecodePolicy()))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path, {"text": STORIES})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TextError, match=r"stories\.parquet cannot be read as parquet: .*\. Download it again\."):
        list(read(path, ReadOptions(column="auto"), DecodePolicy()))


def test_a_column_that_expands_too_much_is_refused() -> None:
    def chunk(name: str, unpacked: int) -> Any:
        return SimpleNamespace(path_in_schema=name, total_uncompressed_size=unpacked, total_compressed_size=1000)

    def metadata(*chunks: Any) -> Any:
        group = SimpleNamespace(column=lambda index: chunks[index])
        return SimpleNamespace(num_row_groups=2, num_columns=len(chunks), row_group=lambda _: group)

    limit = FREE + RATIO * 1000
    refuse_bomb(metadata(chunk("text", limit), chunk("picture", 10 * limit)), ["text"], "a.parquet")
    with pytest.raises(
        TextError, match=rf"a\.parquet unpacks to more than {RATIO} times .*row group 0.*bomb.*write it again"
    ):
        refuse_bomb(metadata(chunk("text", limit + 1)), ["text"], "a.parquet")


def test_parquet_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TextError, match=r"Reading \.parquet needs pyarrow\. pip install 'fabella\[parquet\]'"):
        list(read(tmp_path / "a.parquet", ReadOptions(column="auto"), DecodePolicy()))


def test_nested_columns_are_read_by_their_path(tmp_path: Path) -> None:
    path = write(tmp_path, {"doc": [{"text": story, "n": 1} for story in STORIES]})
    assert list(read(path, ReadOptions(column="doc.text"), DecodePolicy())) == STORIES
    with pytest.raises(TextError, match=r"Name nested text, for example --column doc\.text"):
        list(read(path, ReadOptions(column="auto"), DecodePolicy()))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_are_read_in_both_formats(tmp_path: Path, kind: str) -> None:
    table = arrow.table({"text": STORIES})
    path = tmp_path / "data-00000-of-00001.arrow"
    with (arrow.ipc.new_stream if kind == "stream" else arrow.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    assert list(read(path, ReadOptions(), DecodePolicy())) == STORIES
