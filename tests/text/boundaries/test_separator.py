"""Tests that splitting at a document separator removes only the separators."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.text import decode_policy
from fabella.text.boundaries import separator as separators
from fabella.text.boundaries.separator import split_documents, unescape
from fabella.text.read_report import ReadReport


def documents(text: str, separator: str, size: int = 2**20) -> list[str]:
    data = text.encode()
    blocks = (data[i : i + size] for i in range(0, len(data), size))
    return [raw.decode() for _, raw in split_documents(blocks, separator, ReadReport())]


@pytest.mark.parametrize(
    ("separator", "text", "expected"),
    [
        ("file", "\none\n\ntwo\n\n", ["one\n\ntwo"]),
        ("file", "", []),
        ("lines", "one\n\ntwo\n  three \n", ["one", "two", "  three"]),
        ("blank-lines", "one\nand a half\n\n\ntwo\n  \n\tthree\n", ["one\nand a half", "two", "\tthree"]),
        ("blank-lines", "\n\n\n", []),
        ("<|endoftext|>", "one\n<|endoftext|>\ntwo<|endoftext|>three", ["one", "two", "three"]),
        ("<|endoftext|>", "one<|endoftext|>\n<|endoftext|>two<|endoftext|>", ["one", "", "two"]),
        ("* * *", "one\n* * *\ntwo <|endoftext|> is text here", ["one", "two <|endoftext|> is text here"]),
        (".", "one.two", ["one", "two"]),
        ("\n---\n", "---\none\n---\n\ntwo --- three\n  --- \n---\nfour\n---", ["", "one", "two --- three", "", "four"]),
        ("\n---\n", "one ---\ntwo", ["one ---\ntwo"]),
        ("ende", "einsendezweiENDEdrei", ["eins", "zweiENDEdrei"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 2**20])
def test_documents_are_between_separators(separator: str, text: str, expected: list[str], size: int) -> None:
    assert documents(text, separator, size) == expected


@given(st.lists(st.text("ab \n", max_size=8), max_size=12), st.integers(1, 9))
def test_block_borders_do_not_change_the_documents(parts: list[str], size: int) -> None:
    for separator in ("lines", "blank-lines", "<|x|>", "\n<|x|>\n", "file"):
        text = "<|x|>".join(parts)
        assert documents(text, separator, size) == documents(text, separator)


@given(st.lists(st.text("abc ", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=12))
def test_joined_documents_are_split_again(stories: list[str]) -> None:
    for separator, border in (("lines", "\n"), ("blank-lines", "\n\n"), ("<|x|>", "\n<|x|>\n")):
        assert documents(border.join(stories), separator) == stories


def test_every_document_has_its_first_line() -> None:
    text = b"one\ntwo\n\n\nfive\n<eos>\n\neight"
    assert list(split_documents(iter([text]), "blank-lines", ReadReport())) == [
        (1, b"one\ntwo"),
        (5, b"five\n<eos>"),
        (8, b"eight"),
    ]
    assert list(split_documents(iter([text]), "<eos>", ReadReport())) == [(1, b"one\ntwo\n\n\nfive"), (8, b"eight")]


def test_a_line_without_end_is_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_policy, "LONGEST_DOCUMENT", 64)
    monkeypatch.setattr(separators, "LONGEST_DOCUMENT", 64)
    notes = ReadReport()
    blocks = (b"once upon a time " for _ in range(100))
    found = [raw for _, raw in split_documents(blocks, "lines", notes)]
    assert b" ".join(found) == (b"once upon a time " * 100).strip()
    assert max(map(len, found)) <= 64
    assert notes.cut == 1


def test_a_line_as_separator_counts_lines_as_any_other() -> None:
    text = b"one\ntwo\n---\n\nfive\n---\nseven"
    assert list(split_documents(iter([text]), "\n---\n", ReadReport())) == [
        (1, b"one\ntwo"),
        (5, b"five"),
        (7, b"seven"),
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"\n---\n", "\n---\n"), (r"\r\n--\r\n", "\n--\n"), (r"\t", "\t"), ("\r\n--", "\n--"), ("###", "###")],
)
def test_a_separator_may_be_typed_with_escapes(typed: str, meant: str) -> None:
    assert unescape(typed) == meant
