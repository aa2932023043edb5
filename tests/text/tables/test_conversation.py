"""Conversations, instructions, nested columns and templates become text, and what is left out is reported."""

from typing import Any

import pytest

from fabella.errors import TextError
from fabella.text.chat.marks import parse
from fabella.text.chat.template import ChatTemplate, ConversationWriter, marked_writer
from fabella.text.tables.conversation import conversation
from fabella.text.tables.text_column import NoTextError, find_text

STORY = "Once upon a time a fox ran home, and it was late."
OPENAI = {"id": "c0", "messages": [{"role": "user", "content": "A story!"}, {"role": "assistant", "content": STORY}]}
SHAREGPT = {"id": "c0", "conversations": [{"from": "human", "value": "A story!"}, {"from": "gpt", "value": STORY}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "A story!"}]}, OPENAI["messages"][1]]}
ALPACA = {"instruction": "A story!", "input": "", "output": STORY}
PAIR = {"prompt": "A story!", "response": STORY, "n": 1}
EXPECTED = f"User: A story!\n\nAssistant: {STORY}"


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT, PARTS, ALPACA, PAIR])
def test_conversations_and_instructions_are_recognized(row: dict[str, Any]) -> None:
    found = find_text("auto", [row] * 3, "a.jsonl")
    assert found.text(row) == EXPECTED
    assert "conversation written with the chat template 'plain'" in found.description


@pytest.mark.parametrize(
    ("wanted", "row", "expected"),
    [
        ("{prompt}\\n{response}", PAIR, f"A story!\n{STORY}"),
        ("{n}: {prompt}", PAIR, "1: A story!"),
        ("doc.text", {"doc": {"text": STORY, "n": 1}}, STORY),
        ("pages.text", {"pages": [{"text": "One."}, {"text": "Two."}]}, "One.\nTwo."),
        ("lines", {"lines": ["One.", "Two."]}, "One.\nTwo."),
        ("messages", OPENAI, EXPECTED),
        ("{title}\n{doc.text}", {"title": "Fox", "doc": {"text": STORY}}, f"Fox\n{STORY}"),
        ("a.b", {"a.b": STORY}, STORY),
    ],
)
def test_templates_paths_and_lists_are_read(wanted: str, row: dict[str, Any], expected: str) -> None:
    assert find_text(wanted, [row], "a.jsonl").text(row) == expected


def test_a_column_is_text_because_it_reads_as_text_not_because_it_is_long() -> None:
    rows = [
        {
            "hash": f"{n:064x}",
            "url": f"https://example.org/{n}/{'x' * 90}",
            "date": "2024-05-05T10:00:00",
            "tale": STORY + str(n),
        }
        for n in range(30)
    ]
    assert find_text("auto", rows, "a.jsonl").columns == ("tale",)


@pytest.mark.fault("I7", cases=3)
@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"id": "c0", "n": 1}, r"Set the column: --column NAME\. Its columns: id \('c0'\), n \(1\)"),
        ({"id": "c0", "doc": {"text": STORY}}, r"Name nested text, for example --column doc\.text"),
        ({"label": "positive"}, r"Set the column: --column NAME"),
    ],
)
def test_a_doubtful_guess_stops_and_lists_what_there_is(row: dict[str, Any], hint: str) -> None:
    with pytest.raises(TextError, match=hint):
        find_text("auto", [row] * 30, "a.jsonl")


def test_other_columns_of_text_are_reported_with_a_template_that_reads_them() -> None:
    rows = [{"title": f"The tale of fox number {n}", "text": f"{STORY} {n}"} for n in range(30)]
    found = find_text("auto", rows, "a.jsonl")
    assert found.columns == ("text",)
    message = found.left_out_message("a.jsonl")
    assert message == r"columns of a.jsonl left out: title; --column '{title}\n{text}' reads them, too"
    template = message.partition("'")[2].partition("'")[0]
    assert find_text(template, rows, "a.jsonl").text(rows[0]) == f"The tale of fox number 0\n{STORY} 0"


def test_columns_with_commas_are_joined_by_the_template_of_the_hint() -> None:
    with pytest.raises(TextError, match=r"Join columns with a template: --column '\{prompt\}\\n\{response\}'"):
        find_text("prompt,response", [PAIR], "a.jsonl")


def test_what_is_no_conversation_is_none() -> None:
    for value in ("text", [], [1], [{"role": "user"}], [{"content": "a"}], None):
        assert conversation(value) == []


@pytest.mark.parametrize(
    ("wanted", "row"),
    [
        ("{prompt}\\n{response}", PAIR),
        ("Q: {instruction} A: {output}", ALPACA),
        ("{a.answer}", {"a": {"answer": STORY}}),
    ],
)
def test_the_response_of_a_template_is_the_answer(wanted: str, row: dict[str, Any]) -> None:
    text = find_text(wanted, [row], "a.jsonl", marked_writer(mark_answer=True)).text(row)
    assert isinstance(text, str)
    assert [piece.text for piece in parse(text) if piece.answer] == [STORY]


def test_a_conversation_that_the_template_refuses_is_a_bad_row() -> None:
    template = ChatTemplate("strict", "{{ raise_exception('Only users speak') }}")
    find = find_text("auto", [OPENAI], "a.jsonl", ConversationWriter(template))
    with pytest.raises(NoTextError, match=r"the chat template refuses it: Only users speak\."):
        find.text(OPENAI)
