"""Marks in a document: no text imitates one, and what is between them is found again."""

from hypothesis import given
from hypothesis import strategies as st

from fabella.text.chat.marks import (
    ANSWER_END,
    ANSWER_START,
    EOS,
    MARKS,
    SPECIAL_END,
    SPECIAL_START,
    escape,
    escape_text,
    has_marks,
    parse,
    plain_text,
    text_parts,
)

texts = st.text(st.one_of(st.sampled_from(MARKS + "01234567 a\n"), st.characters(exclude_categories=("Cs",))))


@given(texts)
def test_no_text_imitates_a_mark(text: str) -> None:
    escaped = escape_text(text)
    assert escape(text.encode()).decode() == escaped
    assert plain_text(escaped) == text
    assert all(piece.kind == "text" and not piece.answer for piece in parse(escaped))
    assert "".join(text_parts(escaped)) == text


@given(texts, texts, texts)
def test_an_answer_and_a_special_token_are_found_again(before: str, answer: str, after: str) -> None:
    parts = [escape_text(part) for part in (before, answer, after)]
    document = f"{parts[0]}{ANSWER_START}{parts[1]}{SPECIAL_START}<|end|>{SPECIAL_END}{ANSWER_END}{parts[2]}"
    pieces = list(parse(document))
    assert "".join(piece.text for piece in pieces if piece.answer) == f"{answer}<|end|>"
    assert [piece.text for piece in pieces if piece.kind == "special"] == ["<|end|>"]
    assert plain_text(document) == f"{before}{answer}<|end|>{after}"
    assert list(text_parts(document)) == [piece.text for piece in pieces if piece.kind == "text"]


def test_a_document_that_was_cut_inside_an_answer_begins_in_it() -> None:
    pieces = list(parse(f"of the answer{EOS}{ANSWER_END} and then{SPECIAL_START}<|cut"))
    assert [(piece.text, piece.answer) for piece in pieces] == [
        ("of the answer", True),
        ("", True),
        (" and then<|cut", False),
    ]
    assert not any(map(has_marks, ("ASCII", "漢字 é")))
