"""Tests that web pages, books, Word files and subtitles become their text, and damaged ones become errors."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.file_set import documents

bs4 = pytest.importorskip("bs4", reason="needs beautifulsoup4, which is not installed")
docx: Any = pytest.importorskip("docx", reason="needs python-docx, which is not installed")

PAGE = """<!DOCTYPE html><html><head><title>Foxes</title><style>p {color: red}</style></head><body>
<nav><a href="/">Home</a></nav><script>alert("no text")</script>
<h1>The fox</h1><p>Once upon
   a time &amp; far <b>a</b>way.<br>The end.</p><!-- a comment --><ul><li>one</li><li>two</li></ul>
<footer>Imprint</footer></body></html>"""
PAGE_TEXT = "The fox\n\nOnce upon a time & far away.\nThe end.\n\none\ntwo"
SRT = """1
00:00:01,000 --> 00:00:03,000
<i>Once upon a time,</i>

2
00:00:03,500 --> 00:00:05,000
there was a fox.
It was glad.
"""
VTT = """WEBVTT

NOTE a comment

STYLE
::cue { color: red }

00:01.000 --> 00:03.000 align:start
<v Anna>Once upon a <00:01.500>time,

intro
00:03.500 --> 00:05.000
Once upon a time,
there was a fox &amp; a dog.
"""
CONTAINER = """<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
PACKAGE = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="two" href="b%202.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="a.xhtml" media-type="application/xhtml+xml"/>
<item id="contents" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="cover" href="cover.png" media-type="image/png"/></manifest>
<spine><itemref idref="contents"/><itemref idref="one"/><itemref idref="two"/></spine></package>"""


def read(path: Path) -> list[str]:
    """Return the documents of a file."""
    return list(documents(FilesSource(paths=(str(path),)), DecodePolicy()))


def write_book(path: Path) -> Path:
    """Write an EPUB whose two chapters are not in the order of their files."""
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OEBPS/book.opf", PACKAGE)
        book.writestr("OEBPS/b 2.xhtml", "<html><body><p>Chapter two.</p></body></html>")
        book.writestr("OEBPS/a.xhtml", "<html><body><h1>One</h1><p>Chapter one.</p></body></html>")
        book.writestr("OEBPS/nav.xhtml", "<html><body>Contents</body></html>")
    return path


def write_word_file(path: Path) -> Path:
    """Write a Word file with two paragraphs around a table."""
    document = docx.Document()
    document.add_paragraph("Once upon a time.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "fox", "dog"
    document.add_paragraph("The end.")
    document.save(str(path))
    return path


@pytest.mark.parametrize("suffix", [".html", ".HTM", ".xhtml"])
def test_a_page_is_its_text_without_scripts_and_navigation(suffix: str, tmp_path: Path) -> None:
    page = tmp_path / f"page{suffix}"
    page.write_text(PAGE)
    assert read(page) == [PAGE_TEXT]


def test_code_of_a_page_keeps_its_indentation(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>Run:</p><pre>def f():\n    return  1\n\nf()</pre><p>Done.</p>")
    assert read(page) == ["Run:\n\ndef f():\n    return  1\n\nf()\n\nDone."]


def test_the_article_of_a_page_is_its_text(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body><div>Menu</div><article><p>Story.</p></article><div>More stories</div></body>")
    assert read(page) == ["Story."]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.srt", SRT, "Once upon a time,\nthere was a fox.\nIt was glad."),
        ("a.vtt", VTT, "Once upon a time,\nthere was a fox & a dog."),
        ("windows.srt", SRT.replace("\n", "\r\n"), "Once upon a time,\nthere was a fox.\nIt was glad."),
    ],
)
def test_subtitles_are_the_spoken_lines(name: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read(tmp_path / name) == [expected]


def test_a_book_is_its_chapters_in_reading_order(tmp_path: Path) -> None:
    assert read(write_book(tmp_path / "book.epub")) == ["One\n\nChapter one.\n\nChapter two."]


def test_a_word_file_is_its_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    assert read(write_word_file(tmp_path / "a.docx")) == ["Once upon a time.\nfox\tdog\nThe end."]


@pytest.mark.parametrize("name", ["a.epub", "a.docx"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_an_error_with_its_name(name: str, share: float, tmp_path: Path) -> None:
    path = write_book(tmp_path / name) if name.endswith("epub") else write_word_file(tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(TextError, match=name):
        read(path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = write_book(tmp_path / "book.epub")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("OEBPS/zeros", bytes(2**28))
    with pytest.raises(TextError, match="decompression bomb"):
        read(path)


def test_a_protected_book_is_refused(tmp_path: Path) -> None:
    path = write_book(tmp_path / "book.epub")
    with zipfile.ZipFile(path, "a") as book:
        book.writestr("META-INF/encryption.xml", "")
        book.writestr("META-INF/rights.xml", "")
    with pytest.raises(TextError, match="protected"):
        read(path)


def test_a_book_without_chapters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("META-INF/container.xml", CONTAINER.replace("<rootfile ", "<other "))
    with pytest.raises(TextError, match=r"book\.epub cannot be read as EPUB: .*names no rootfile"):
        read(path)
