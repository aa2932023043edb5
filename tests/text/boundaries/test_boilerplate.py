"""Tests that boilerplate around a text is removed and counted, and that later lines keep their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.text.boundaries.boilerplate import without_front_matter, without_gutenberg
from fabella.text.read_report import ReadReport

HEADER = "The Project Gutenberg eBook of Alice\n\nTitle: Alice\n\n*** START OF THE PROJECT GUTENBERG EBOOK ALICE ***\n"
FOOTER = "*** END OF THE PROJECT GUTENBERG EBOOK ALICE ***\n\nUpdated editions …\n" + "licence line\n" * 200
BOOK = "\n".join(f"Alice said number {number}." for number in range(100)) + "\n"


def book_of(text: str, size: int = 2**20) -> tuple[str, ReadReport]:
    data, notes = text.encode(), ReadReport()
    blocks = (data[i : i + size] for i in range(0, len(data), size))
    return b"".join(without_gutenberg(blocks, "alice.txt", notes)).decode(), notes


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("*** START OF THE PROJECT GUTENBERG EBOOK ALICE ***", "*** END OF THE PROJECT GUTENBERG EBOOK ALICE ***"),
        ("***START OF THIS PROJECT GUTENBERG EBOOK ALICE***", "End of Project Gutenberg's Alice, by Lewis Carroll"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ***", "*** END OF THIS PROJECT GUTENBERG EBOOK ***"),
        ("*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*", "End of The Project Gutenberg Etext"),
    ],
)
def test_header_and_licence_of_project_gutenberg_are_left_out(start: str, end: str) -> None:
    text = f"Title: Alice\n\n{start}\n{BOOK}{end}\nlicence\n"
    kept, notes = book_of(text)
    assert kept.strip() == BOOK.strip()
    assert kept.count("\n") == text.count("\n")
    (sentence,) = notes.messages()
    left_out = len(text) - len(BOOK)
    assert sentence.startswith(f"header and licence of Project Gutenberg of alice.txt left out ({left_out} bytes)")
    assert sentence.endswith("--boilerplate keep reads it as text")


@given(st.integers(1, 5000))
def test_blocks_of_any_size_give_the_same_book(size: int) -> None:
    text = HEADER + BOOK + FOOTER + HEADER + BOOK + FOOTER
    kept, _ = book_of(text, size)
    assert kept == book_of(text)[0]
    assert [line for line in kept.split("\n") if line] == 2 * BOOK.strip().split("\n")


@pytest.mark.parametrize("text", ["", BOOK, "He wrote of Project Gutenberg.\n" + BOOK, BOOK + FOOTER])
def test_a_text_without_a_start_line_is_unchanged(text: str) -> None:
    kept, notes = book_of(text)
    assert kept == text
    assert not list(notes.messages())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("---\ntitle: A note\ntags: [a, b]\n---\n\n# Heading\n", "\n\n\n\n\n# Heading\n"),
        ("+++\ntitle = 'A'\n+++\nText", "\n\n\nText"),
        ("# Heading\n\n---\n\nText\n\n---\n", "# Heading\n\n---\n\nText\n\n---\n"),
        ("---\nA rule, not front matter", "---\nA rule, not front matter"),
    ],
)
def test_front_matter_of_markdown_is_left_out(text: str, kept: str) -> None:
    notes = ReadReport()
    assert b"".join(without_front_matter(iter([text.encode()]), "a.md", notes)).decode() == kept
    assert bool(notes.boilerplate) == (kept != text)
