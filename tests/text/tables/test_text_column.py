"""Tests of the detection of the text column."""

from typing import Any

import pytest

from fabella.errors import TextError
from fabella.text.tables.text_column import PEEK_CHARACTERS, PEEK_ROWS, find_text, peek

ROWS: list[dict[str, Any]] = [
    {"id": 1, "title": "Fox", "Story": "Once upon a time there was a fox.", "source": None},
    {"id": 2, "title": "Owl", "Story": "Once upon a time there was an owl.", "source": "book"},
]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (ROWS, "Story"),
        ([{"a": "short", "b": "a good deal longer"}], "b"),
        ([{"title": "a very long title, longer than its text", "text": "short"}], "text"),
        ([{"story": "s", "text": "t"}], "text"),
        ([{"text": 5, "story": "not a number"}], "story"),
        ([{"a": 1}, {"b": "only here"}], "b"),
        ([{"text": b"bytes of text"}], "text"),
    ],
)
def test_the_text_column_is_detected_by_name_then_by_length(rows: list[dict[str, Any]], expected: str) -> None:
    assert find_text("auto", rows, "stories.csv").columns == (expected,)


def test_a_named_column_is_used_as_given() -> None:
    assert find_text("title", ROWS, "stories.csv").columns == ("title",)


def test_an_unknown_column_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(TextError) as error:
        find_text("Storry", ROWS, "stories.csv")
    assert str(error.value) == "stories.csv has no column 'Storry'. Did you mean 'Story'?"


def test_a_table_without_text_is_an_error_with_its_columns() -> None:
    with pytest.raises(
        TextError, match=r"stories.csv has no text column in its first 1 rows\. Set .*: a \(1\), b \(None\)\."
    ):
        find_text("auto", [{"a": 1, "b": None}], "stories.csv")


def test_peeking_keeps_all_rows() -> None:
    rows = [{"text": str(number)} for number in range(3 * PEEK_ROWS)]
    first, everything = peek(iter(rows))
    assert first == rows[:PEEK_ROWS]
    assert list(everything) == rows


def test_peeking_is_bounded_by_size_too() -> None:
    first, _ = peek({"text": "x" * PEEK_CHARACTERS} for _ in range(PEEK_ROWS))
    assert len(first) == 1
