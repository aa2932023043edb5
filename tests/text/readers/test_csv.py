"""Tests that each row of a CSV file is a document, or a broken row that is counted with its line number."""

from collections.abc import Iterator

import pytest

from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.csv import csv_rows
from fabella.text.tables.rows import row_documents


def blocks(data: bytes) -> Iterator[bytes]:
    size = max(7, len(data) // 9)
    return (data[i : i + size] for i in range(0, len(data), size))


def csv(data: bytes, policy: DecodePolicy | None = None, column: str = "auto") -> list[str]:
    policy = policy or DecodePolicy()
    return list(row_documents(csv_rows(blocks(data), "a.csv", policy), "a.csv", ReadOptions(column=column), policy))


def test_each_rows_text_is_a_document() -> None:
    data = b'id,text\n1,"Once, a fox."\n2,"Said ""no""."\n\n3,"Two\nlines"\n'
    assert csv(data) == ["Once, a fox.", 'Said "no".', "Two\nlines"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_detected_from_the_header_and_reported(delimiter: str) -> None:
    policy = DecodePolicy()
    assert csv(f'id{delimiter}text\n1{delimiter}"Once, a fox."\n'.encode(), policy) == ["Once, a fox."]
    sign = "tabs" if delimiter == "\t" else repr(delimiter)
    assert f"detected form of a.csv: separated by {sign}; --separator sets the separator" in policy.notes.messages()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,two,three", "it has 3 fields, the header has 2"),
        (b"1", "it has 1 fields, the header has 2"),
        (b'1,"two"three', "it is not CSV"),
    ],
)
def test_a_broken_row_fails_with_its_line_or_is_skipped(row: bytes, reason: str) -> None:
    data = b'id,text\n0,"first\nstory"\n' + row + b"\n2,third\n"
    with pytest.raises(TextError, match=f"a.csv, line 4: {reason}"):
        csv(data)
    policy = DecodePolicy(max_bad_lines=1)
    assert csv(data, policy) == ["first\nstory", "third"]
    assert policy.notes.bad_lines == 1


def test_a_quote_that_never_ends_is_named_by_its_beginning() -> None:
    with pytest.raises(TextError, match=r"a.csv, line 3: it is not CSV \(unexpected end of data\)"):
        csv(b'id,text\n0,fine\n1,"never\nends\n')


def test_a_file_without_a_header_has_numbered_columns() -> None:
    policy = DecodePolicy()
    assert csv(b"Once upon a time, a fox.\nAnd so on.\n", policy) == ["Once upon a time, a fox.", "And so on."]
    assert csv(b'1,"Once, a fox."\n2,"The end, at last."\n', policy) == ["Once, a fox.", "The end, at last."]
    assert csv(b"positive,Once a fox\npositive,The very end\n", policy, "2") == ["Once a fox", "The very end"]
    assert sum("no header, so the columns are named 1, 2" in message for message in policy.notes.messages()) == 1


def test_two_columns_of_the_same_name_are_refused() -> None:
    with pytest.raises(TextError, match=r"a.csv has two columns named 'text'\. Rename one of them"):
        csv(b"text,text\na,b\n")


def test_a_field_may_be_longer_than_the_limit_of_the_csv_module() -> None:
    story = "word " * 50_000
    assert csv(f'text\n"{story}"\n'.encode()) == [story]


def test_damage_in_a_field_is_handled_by_the_policy() -> None:
    with pytest.raises(TextError, match=r"a\.csv, line 3, in 'text': 0xE9 after 'caf' is not UTF-8"):
        csv(b"text\nfine\ncaf\xe9\n")


def test_an_empty_file_has_no_documents() -> None:
    assert csv(b"") == []
    assert csv(b"\n\n") == []
