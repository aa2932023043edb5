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


STORY = "Once upon a time there was a fox who lived near the river."


def test_lists_of_strings_are_text() -> None:
    rows = [{"title": f"The tale {n}", "lines": [f"{STORY} {n}", STORY]} for n in "abc"]
    column = find_text("auto", rows, "a.jsonl")
    assert (column.text(rows[0]), column.left_out) == (f"{STORY} a\n{STORY}", ("title",))


def test_much_more_nested_text_than_in_the_longest_column_stops() -> None:
    row = {"title": "Who was it?", "answers": {"score": [2, 1], "text": [STORY, STORY]}}
    with pytest.raises(TextError, match=r"more text in answers\.text than in title") as error:
        find_text("auto", [row], "a.jsonl")
    for advice in ("answers.text", "{title}\\n{answers.text}", "title"):
        assert f"--column {advice}" in str(error.value) or f"--column '{advice}'" in str(error.value)
        assert find_text(advice, [row], "a.jsonl").text(row)


def test_nested_text_next_to_a_text_column_is_reported() -> None:
    row = {"context": STORY, "answers": {"text": ["a small fox"], "answer_start": [1]}}
    assert find_text("auto", [row], "a.jsonl").left_out == ("answers.text",)


def test_text_that_is_in_the_chosen_column_too_is_not_reported() -> None:
    prompts = [f"Who was fox {n}, if you please?" for n in "abc"]
    chats = [
        {"prompt": prompt, "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": STORY}]}
        for prompt in prompts
    ]
    assert find_text("auto", chats, "a.jsonl").left_out == ()
    other = [{**row, "pro.logue": f"{STORY} {n}"} for n, row in enumerate(chats)]
    assert find_text("auto", other, "a.jsonl").left_out == ("pro.logue",)


def test_the_hint_names_the_longest_nested_text_first() -> None:
    rows = [{"about": {"id": f"a{n}"}, "story": {"body": f"{STORY} {n}"}} for n in range(3)]
    with pytest.raises(TextError, match=r"for example --column story\.body; there are: story\.body, about\.id"):
        find_text("auto", rows, "a.jsonl")
