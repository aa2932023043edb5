"""Tests that empty or damaged text is read according to ``decode_errors``, or refused with an error.

Rows B3 (the text side) and B4 of the fault matrix.
"""

import codecs
import gzip
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text import decode
from fabella.text.read_report import ReadReport
from fabella.text.source import documents

FIRST, LAST = "Once upon a time.", "The end."


def read(path: Path, invalid: str = "strict", notes: ReadReport | None = None, separator: str = "lines") -> list[str]:
    source = FilesSource(paths=(str(path),), separator=separator)
    return list(documents(source, decode_errors=invalid, notes=notes))  # type: ignore[arg-type]


# ---------------------------------------------------------------- B3: no text, or a single character


def table_without_rows() -> bytes:
    out = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({"text": arrow.array([], arrow.string())}), out)
    return out.getvalue().to_pybytes()


WITHOUT_TEXT = {
    "empty.txt": b"",
    "newlines.txt": b"\n\r\n\n",
    "spaces.txt": b"  \t ",
    "mark.txt": codecs.BOM_UTF8,
    "packed.txt.gz": gzip.compress(b""),
    "blank.jsonl": b"\n\n",
    "names.csv": b"id,text\n",
    "rows.parquet": table_without_rows(),
}


@pytest.mark.fault("B3", cases=1)
@pytest.mark.parametrize("name", WITHOUT_TEXT)
@pytest.mark.parametrize("separator", ["auto", "file"])
def test_a_file_without_text_is_a_clear_error(tmp_path: Path, name: str, separator: str) -> None:
    (tmp_path / name).write_bytes(WITHOUT_TEXT[name])
    with pytest.raises(TextError, match=rf"There is no text in .*{name}\. Give a file that contains text\."):
        read(tmp_path / name, separator=separator)


@pytest.mark.fault("B3", cases=1)
def test_a_single_character_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    assert read(tmp_path / "a.txt", separator="auto") == ["a"]


# ---------------------------------------------------------------- B4: damaged text


class Case(NamedTuple):
    """The content of one file and the expected result for the document between FIRST and LAST.

    ``sound``: the document, if the file is valid. ``damaged``: the error of ``strict``, if the document is damaged
    (``replace`` repairs it and ``skip`` drops it). ``refused``: the error of every policy, if the file is not text.
    """

    name: str
    data: bytes
    sound: str | None = None
    damaged: str = ""
    refused: str = ""


def lines(middle: bytes) -> bytes:
    return FIRST.encode() + b"\n" + middle + b"\n" + LAST.encode() + b"\n"


def jsonl(middle: bytes) -> bytes:
    return b"\n".join(b'{"text": "' + text + b'"}' for text in (FIRST.encode(), middle, LAST.encode()))


def utf16(text: str, encoding: str, mark: bytes) -> bytes:
    return mark + f"{FIRST}\n{text}\n{LAST}\n".encode(encoding, "surrogatepass")


def table(middle: bytes) -> bytes:
    texts = arrow.array([FIRST.encode(), middle, LAST.encode()], arrow.binary())
    out = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({"text": arrow.Array.from_buffers(arrow.string(), 3, texts.buffers())}), out)
    return out.getvalue().to_pybytes()


NOISE = np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8).tobytes()
MIXED = unicodedata.normalize("NFC", "Grüße") + " " + unicodedata.normalize("NFD", "Grüße")

ODD_LINE_ENDS = "A\u2028fox\u2029and\u0085an\x0bowl\x0c."
HALF_OF_UTF16 = utf16("A \ud83e fox", "utf-16-le", codecs.BOM_UTF16_LE)

CORPUS = [
    Case("plain.txt", lines("Der Fuchs sprach: „Grüß Gott!“ 🦊".encode()), sound="Der Fuchs sprach: „Grüß Gott!“ 🦊"),
    Case("mark.txt", codecs.BOM_UTF8 + lines(b"A fox."), sound="A fox."),
    Case("mark-within.txt", lines(b"A " + codecs.BOM_UTF8 + b"fox."), sound="A \ufefffox."),
    Case("windows.txt", lines(b"A fox.").replace(b"\n", b"\r\n"), sound="A fox."),
    Case("macintosh.txt", lines(b"A fox.").replace(b"\n", b"\r"), sound="A fox."),
    Case("all-line-ends.txt", FIRST.encode() + b"\r\nA fox.\r" + LAST.encode() + b"\n", sound="A fox."),
    Case("unicode-line-ends.txt", lines(ODD_LINE_ENDS.encode()), sound=ODD_LINE_ENDS),
    Case("mixed-normalisation.txt", lines(MIXED.encode()), sound=MIXED),
    Case("noncharacters.txt", lines("A \ufffe\uffff fox".encode()), sound="A \ufffe\uffff fox"),
    Case("zero-width.txt", lines("👩\u200d👩\u200d👧 a\u200bb".encode()), sound="👩\u200d👩\u200d👧 a\u200bb"),
    Case("both-directions.txt", lines("a \u202eb\u202c שועל".encode()), sound="a \u202eb\u202c שועל"),
    Case("private-use.txt", lines("\ue000 \U0010fffd".encode()), sound="\ue000 \U0010fffd"),
    Case("bell.txt", lines(b"A \x07fox."), sound="A \x07fox."),
    Case("colours.txt", lines(b"A \x1b[31mfox\x1b[0m."), sound="A \x1b[31mfox\x1b[0m."),
    Case("end-of-dos.txt", lines(b"A fox.") + b"\x1a", sound="A fox."),
    Case("utf16-le.txt", utf16("A fox 🦊", "utf-16-le", codecs.BOM_UTF16_LE), sound="A fox 🦊"),
    Case("utf16-be.txt", utf16("A fox 🦊", "utf-16-be", codecs.BOM_UTF16_BE), sound="A fox 🦊"),
    Case("utf16-unmarked.txt", utf16("A fox.", "utf-16-le", b""), sound="A fox."),
    Case("packed.txt.gz", gzip.compress(lines(b"A fox.")), sound="A fox."),
    Case("escaped.jsonl", jsonl(rb"A fox \ud83e\udd8a"), sound="A fox 🦊"),
    Case("latin-1.txt", lines(b"Un caf\xe9."), damaged="line 2, byte 7: 0xE9 after .* cp1252, where it reads 'Un café"),
    Case("windows-1252.txt", lines(b"It\x92s a fox."), damaged="line 2, byte 3: 0x92 .* cp1252, where it reads 'It.s"),
    Case("windows-1251.txt", lines(bytes(range(0xC0, 0x100))), damaged="line 2, byte 1: 0xC0 is not UTF-8"),
    Case("shift-jis.txt", lines(b"\x83L\x83c\x83l"), damaged="line 2, byte 1: 0x83 is not UTF-8"),
    Case("overlong.txt", lines(b"A \xc0\xaf fox"), damaged="line 2, byte 3: 0xC0 after 'A ' is not UTF-8"),
    Case("continuation.txt", lines(b"A \x80 fox"), damaged="line 2, byte 3: 0x80"),
    Case("beyond-unicode.txt", lines(b"A \xf5\x80\x80\x80 fox"), damaged="line 2, byte 3: 0xF5"),
    Case("cut-character.txt", lines("A 🦊".encode()[:-1]), damaged="line 2, byte 3: 0xF0"),
    Case("surrogate.txt", lines(b"A \xed\xa0\xbd fox"), damaged="line 2, byte 3: a lone surrogate"),
    Case("cesu-8.txt", lines(b"A \xed\xa0\xbe\xed\xb6\x8a fox"), damaged="line 2, byte 3: a lone surrogate"),
    Case("nul.txt", lines(b"A \0 fox"), damaged="line 2, byte 3: a NUL character after 'A '; text must not"),
    Case("utf16-surrogate.txt", HALF_OF_UTF16, damaged="line 2, byte 3: a lone surrogate"),
    Case("packed-latin-1.txt.gz", gzip.compress(lines(b"caf\xe9")), damaged="line 2, byte 4: 0xE9"),
    Case("latin-1.jsonl", jsonl(b"Un caf\xe9."), damaged="line 2, in 'text': 0xE9 after 'Un caf'"),
    Case("surrogate.jsonl", jsonl(rb"A \ud83e fox"), damaged="line 2, in 'text': a lone surrogate"),
    Case("nul.jsonl", jsonl(rb"A \u0000 fox"), damaged="line 2, in 'text': a NUL character"),
    Case("latin-1.csv", b"text\n" + lines(b"Un caf\xe9"), damaged="line 3, in 'text': 0xE9"),
    Case("latin-1.parquet", table(b"Un caf\xe9."), damaged="row 2, in 'text': 0xE9"),
    Case("noise.txt", NOISE, refused="is not text: 10 % of its first 5,000 bytes are control bytes"),
    Case("utf32.txt", codecs.BOM_UTF32_LE + lines("A fox 🦊".encode()).decode().encode("utf-32-le"), sound="A fox 🦊"),
]  # fmt: skip
B4 = pytest.mark.fault("B4", cases=1)  # 40 files, each under three policies, and the line of a gigabyte
each = pytest.mark.parametrize("case", CORPUS, ids=[case.name for case in CORPUS])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Case], Path]:
    def write(case: Case) -> Path:
        (tmp_path / case.name).write_bytes(case.data)
        return tmp_path / case.name

    return write


@B4
@each
def test_strict_reads_valid_text_and_names_damage(case: Case, write: Callable[[Case], Path]) -> None:
    path = write(case)
    if case.sound is not None:
        assert read(path)[:3] == [FIRST, case.sound, LAST]
    else:
        with pytest.raises(TextError, match=f"{path.name}.*{case.damaged or case.refused}"):
            read(path)


@B4
@each
def test_replace_keeps_every_document_and_counts_damage(case: Case, write: Callable[[Case], Path]) -> None:
    path, notes = write(case), ReadReport()
    if case.refused:
        with pytest.raises(TextError, match=case.refused):
            read(path, "replace")
        return
    texts = read(path, "replace", notes)
    assert (texts[0], texts[2]) == (FIRST, LAST)
    assert ("\ufffd" in texts[1]) == bool(case.damaged)
    assert (notes.damaged, bool(notes.replaced)) == (bool(case.damaged), bool(case.damaged))
    assert all(text.encode().decode() == text for text in texts)


@B4
@each
def test_skip_drops_damaged_documents_only(case: Case, write: Callable[[Case], Path]) -> None:
    path, notes = write(case), ReadReport()
    if case.refused:
        with pytest.raises(TextError, match=case.refused):
            read(path, "skip")
        return
    expected = [FIRST, LAST] if case.damaged else [FIRST, case.sound, LAST]
    assert read(path, "skip", notes)[: len(expected)] == expected
    assert notes.skipped == bool(case.damaged)


GIGABYTE = 2**30
# Two blocks, two documents of maximum length, and their decoded copies.
MAX_MEMORY_BYTES = 16 * 2**20


@B4
def test_a_line_of_a_gigabyte_is_read_with_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are generated, to spare the disk; all code after that reads the complete line."""

    def blocks(path: Path) -> Iterator[bytes]:
        block = b"once upon a time, " * (2**20 // 18)
        return (block for _ in range(GIGABYTE // len(block)))

    monkeypatch.setattr(decode, "read_blocks", blocks)
    path = tmp_path / "line.txt"
    path.write_text("not empty")
    notes = ReadReport()
    size = longest = 0
    tracemalloc.start()
    for text in documents(FilesSource(paths=(str(path),), separator="lines"), notes=notes):
        size += len(text)
        longest = max(longest, len(text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 0.99 * GIGABYTE
    assert longest <= 2**20
    assert peak < MAX_MEMORY_BYTES
    assert notes.cut == 1


def test_the_corpus_has_forty_files() -> None:
    assert len({case.name for case in CORPUS}) == 40
