"""Which column of a table is its text."""

from typing import Any

import pytest

from fabella.errors import TextError
from fabella.text.readers.text_column import LOOK_AT, LOOK_AT_BYTES, detect_text_column, peek

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
def test_the_text_column_is_guessed_by_name_then_by_length(rows: list[dict[str, Any]], expected: str) -> None:
    assert detect_text_column("auto", rows, "stories.csv") == expected


def test_a_named_column_is_taken_as_it_is() -> None:
    assert detect_text_column("title", ROWS, "stories.csv") == "title"


def test_a_column_that_is_not_there_is_an_error_with_the_nearest() -> None:
    with pytest.raises(TextError) as error:
        detect_text_column("Storry", ROWS, "stories.csv")
    assert str(error.value) == "stories.csv has no column 'Storry'. Did you mean 'Story'?"


def test_no_text_at_all_is_an_error_with_what_there_is() -> None:
    with pytest.raises(TextError, match=r"stories.csv has no column with text in its first 1 rows\. Name .*: a, b\."):
        detect_text_column("auto", [{"a": 1, "b": None}], "stories.csv")


def test_peeking_takes_nothing_away() -> None:
    rows = [{"text": str(number)} for number in range(3 * LOOK_AT)]
    first, everything = peek(iter(rows))
    assert first == rows[:LOOK_AT]
    assert list(everything) == rows


def test_peeking_is_bounded_by_size_too() -> None:
    first, _ = peek({"text": "x" * LOOK_AT_BYTES} for _ in range(LOOK_AT))
    assert len(first) == 1
