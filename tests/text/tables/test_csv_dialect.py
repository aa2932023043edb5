"""Tests that a table written in any usual dialect is read back: the law, and the dialects of known programs."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.csv import csv_rows
from fabella.text.tables.csv_dialect import detect_dialect

STORIES = [
    "Once upon a time, there was a fox; it said: no.",
    'He said "hi", then left.',
    "A tale of two lines,\nand of commas, and semicolons; too.",
    '"Quoted," said she.',
    "Short.",
    "One more story | with a bar.",
]


def rows(data: str, separator: str = "") -> list[dict[str, str]]:
    policy = DecodePolicy()
    return [dict(row) for row in csv_rows(iter([data.encode()]), "a.csv", policy, separator)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_what_a_csv_writer_writes_is_read_back(separator: str, quoting: int, line_end: str, header: bool) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n")  # pyright: ignore
    names = ["id", "story", "price"] if header else ["1", "2", "3"]
    table = [[n, story, f"{n},5"] for n, story in enumerate(STORIES * 3)]
    writer.writerows([names, *table] if header else table)
    got = rows(out.getvalue().replace("\n", line_end).replace("\r\n", "\n"))
    assert got == [dict(zip(names, map(str, row), strict=True)) for row in table]


CELL = st.text(st.sampled_from("abc ,;|\"'.\n\t0"), min_size=1, max_size=30).filter(lambda text: text.strip() == text)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 999), CELL, CELL), min_size=12, max_size=40), st.sampled_from(",;\t|"))
def test_quoted_rows_of_any_text_are_read_back(table: list[tuple[int, str, str]], separator: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("id", "text", "title"), *table])
    assert [list(row.values()) for row in rows(out.getvalue())] == [list(map(str, row)) for row in table]


def quoted(story: str) -> str:
    return story.replace('"', '\\"').replace("\n", " ")


DIALECTS = {
    "backslash quotes": ("id,text\n" + "".join(f'{n},"{quoted(s)}"\n' for n, s in enumerate(STORIES * 3)), 18),
    "raw quotes between tabs": (
        "id\ttext\n" + "".join(f'{n}\t"{quoted(s)[:20]}\n' for n, s in enumerate(STORIES * 3)),
        18,
    ),
    "Excel's line": ("sep=;\nid;text\n" + "".join(f"{n};A tale, {n}.\n" for n in range(5)), 5),
    "a name with commas": ("id;text, cleaned;Preis, EUR\n" + "".join(f"{n};A tale, {n}.;1,5\n" for n in range(9)), 9),
    "one column with commas": ("text\n" + "Once, a fox, and a bear.\nThe end.\nNo, he said.\n" * 4, 12),
    "one column without a header": ("Once, a fox, and a bear.\nThe end of it.\nNo, he said.\n" * 4, 12),
    "a title before the header": ("Stories of 2024\n\nid,text\n" + "".join(f"{n},A tale.\n" for n in range(9)), 9),
    "a title among empty cells": (
        "Stories of 2024,,\n,,\nid,text,n\n" + "".join(f"{n},A tale.,1\n" for n in range(9)),
        9,
    ),
    "one name among empty ones": ("text,,\n" + "".join(f"A tale {n}.,1,2\n" for n in range(9)), 9),
    "row names of R": ('"text","label"\n' + "".join(f'"{n}","A tale.",1\n' for n in range(9)), 9),
    "an index of pandas": (",text\n" + "".join(f'{n},"A tale, {n}."\n' for n in range(9)), 9),
    "labels without a header": ("".join(f"{'pos' if n % 2 else 'neg'}\tA tale {n}.\n" for n in range(9)), 9),
    "one row": ("id,text\n1,A tale of a fox\n", 1),
    "spaces around names": ("id, text\n1, A tale of a fox\n2, Another tale\n", 2),
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_the_dialects_of_known_programs_are_read(kind: str) -> None:
    data, count = DIALECTS[kind]
    got = rows(data)
    assert len(got) == count
    assert len({len(row) for row in got}) == 1


def test_quotes_and_backslashes_in_backslash_quoted_text_are_kept() -> None:
    data = "id,text\n" + r'1,"She said \"no\", in C:\new, and left."' + "\n" + r'2,"A \"b\", c."' + "\n"
    assert [row["text"] for row in rows(data)] == ['She said "no", in C:\\new, and left.', 'A "b", c.']


def test_the_separator_can_be_given() -> None:
    assert rows("a;b,text\n1;2,A tale\n", ",") == [{"a;b": "1;2", "text": "A tale"}]
    assert rows("a;b,text\n1;2,A tale\n", ";") == [{"a": "1", "b,text": "2,A tale"}]


@pytest.mark.parametrize(
    ("data", "description"),
    [
        ("id,text\n1,a\n", ""),
        ("id;text\n1;a\n", "separated by ';'"),
        ("1\tA tale.\n2\tThe end.\n", "separated by tabs, no header, so the columns are named 1, 2, …"),
        ("A title\nid,text\n1,A tale\n2,The end\n", "1 line before the header left out"),
    ],
)
def test_what_is_unusual_is_described(data: str, description: str) -> None:
    lines = data.splitlines(keepends=True)
    assert detect_dialect(lines, complete=True).description() == description
