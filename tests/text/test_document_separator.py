"""Document separator: detection, and splitting that loses only the separators."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.text import decode_policy, document_separator
from fabella.text.document_separator import MANY_FILES, MARKERS, detect_separator, split_documents
from fabella.text.read_report import ReadReport


def documents(text: str, separator: str, size: int = 2**20) -> list[str]:
    data = text.encode()
    blocks = (data[i : i + size] for i in range(0, len(data), size))
    return [raw.decode() for _, raw in split_documents(blocks, separator, ReadReport())]


STORY = "The fox ran.\nIt was late."
POEM = "A fox in the wood\nSaid nothing but good\nAnd under a tree\nHe had some tea"
WRAPPED = "\n".join(["It was a bright cold day in spring, and the little fox that lived under the", "hill went"] * 9)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (f"{STORY}\n<|endoftext|>\n{STORY}\n", "<|endoftext|>"),
        (f"{STORY}</s>{STORY}", "</s>"),
        ("\n\n".join([STORY] * 10), "blank-lines"),
        ("\n \t\n\n".join([STORY] * 10), "blank-lines"),
        ("\n".join(["The fox ran home.", '"Where is it?" she asked.', "“No!”"] * 4), "lines"),
        ("\n".join(["emma", "olivia", "ava", "isabella", "mia", "jo"] * 4), "lines"),
        ("\n".join(["A line of prose that was broken by an editor at its margin, as it"] * 20), "file"),
        ("\n\n".join([STORY] * 3), "file"),
        (POEM, "file"),
        ("One long line. " * 500, "file"),
        ("", "file"),
    ],
)
def test_the_separator_is_detected_from_a_sample(sample: str, expected: str) -> None:
    assert detect_separator([sample], files=1) == expected


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_is_detected_first(marker: str) -> None:
    assert detect_separator(["\n\n".join([STORY] * 20), f"{STORY}{marker}"], files=2) == marker


def test_each_of_many_files_is_one_document() -> None:
    sample = "\n\n".join([STORY] * 20)
    assert detect_separator([sample] * 16, files=MANY_FILES) == "file"
    assert detect_separator([sample] * 16, files=MANY_FILES - 1) == "blank-lines"


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
        ("ende", "einsendezweiENDEdrei", ["eins", "zweiENDEdrei"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 2**20])
def test_documents_are_between_separators(separator: str, text: str, expected: list[str], size: int) -> None:
    assert documents(text, separator, size) == expected


@given(st.lists(st.text("ab \n", max_size=8), max_size=12), st.integers(1, 9))
def test_block_borders_do_not_change_the_documents(parts: list[str], size: int) -> None:
    for separator in ("lines", "blank-lines", "<|x|>", "file"):
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
    monkeypatch.setattr(document_separator, "LONGEST_DOCUMENT", 64)
    notes = ReadReport()
    blocks = (b"once upon a time " for _ in range(100))
    found = [raw for _, raw in split_documents(blocks, "lines", notes)]
    assert b" ".join(found) == (b"once upon a time " * 100).strip()
    assert max(map(len, found)) <= 64
    assert notes.cut == 1
