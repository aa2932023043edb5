"""Tests that text files are decoded to UTF-8 with newlines, and that binary files are refused with their format."""

import codecs
import io
import tarfile
import zipfile
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import TextError
from fabella.text.decode import SIGNATURES, to_utf8_blocks
from fabella.text.read_report import ReadReport
from tests.text.languages import LANGUAGES, encoded

STORY = "Once upon a time, a fox said: “Grüß dich, 小狐狸!” 🦊\nThe end.\n"


def read(blocks: Iterable[bytes], notes: ReadReport | None = None) -> bytes:
    return b"".join(to_utf8_blocks(iter(blocks), "stories.txt", notes or ReadReport()))


def test_utf8_is_unchanged() -> None:
    notes = ReadReport()
    assert read([STORY.encode()], notes).decode() == STORY
    assert not list(notes.messages())


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("bom", "encoding"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)  # fmt: skip
def test_a_byte_order_mark_selects_the_encoding_and_is_dropped(size: int, bom: bytes, encoding: str) -> None:
    data = bom + STORY.encode(encoding)
    notes = ReadReport()
    assert read((data[i : i + size] for i in range(0, len(data), size)), notes).decode() == STORY
    assert any("stories.txt" in sentence for sentence in notes.messages())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_detected_by_its_zeros(encoding: str) -> None:
    text = "Once upon a time there was a small hedgehog.\n" * 9
    notes = ReadReport()
    assert read([text.encode(encoding)], notes).decode() == text
    assert list(notes.messages()) == [f"encoding of stories.txt: {encoding} (detected); --encoding sets another one"]


@pytest.mark.parametrize("language", ["chinese", "japanese", "russian", "english"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf16_and_utf32_without_a_mark_are_detected_in_any_script(encoding: str, language: str) -> None:
    text = LANGUAGES[language][1]
    notes = ReadReport()
    assert read([text.encode(encoding)], notes).decode() == text
    assert encoding in " ".join(notes.messages())


@pytest.mark.parametrize("lost", [b"\x41", b"\x3d\xd8", b"\x3d\xd8\x00"])
def test_half_a_character_at_the_end_of_utf16_is_handled_by_the_policy(lost: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        read([codecs.BOM_UTF16_LE + STORY.encode("utf-16-le") + lost]).decode()


def test_half_a_character_within_utf16_is_handled_by_the_policy() -> None:
    with pytest.raises(UnicodeDecodeError):
        read([codecs.BOM_UTF16_LE + b"a\0" * 20 + b"\x3d\xd8" + b"b\0" * 20]).decode()


@given(
    st.lists(st.sampled_from(["a", "\r", "\n", "\r\n"]), max_size=30),
    st.lists(st.integers(1, 5), min_size=1, max_size=9),
)
def test_line_ends_equal_those_of_python_whatever_the_block_borders(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)
    data, blocks = text.encode(), []
    while data:
        blocks.append(data[: sizes[len(blocks) % len(sizes)]])
        data = data[len(blocks[-1]) :]
    notes = ReadReport()
    assert read(blocks, notes).decode() == io.StringIO(text, newline=None).read()
    assert notes.carriage_returns == text.count("\r")


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("a.txt", "story")
    else:
        with tarfile.open(fileobj=out, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (archive("zip"), "it is a zip archive"),
        (archive("tar"), "it is a tar archive. Fabella reads the text files in it if its name ends in .tar"),
        (b"\x1f\x8b\x08" + bytes(9), r"compressed with gzip\. Fabella decompresses it if its name ends in \.gz"),
        (b"PAR1" + bytes(9), r"a parquet file\. Rename it so that it ends in \.parquet"),
        (b"%PDF-1.7\n", r"a PDF\. Convert it: pdftotext"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
    ],
)
def test_binary_files_are_named(data: bytes, what: str) -> None:
    with pytest.raises(TextError, match=f"stories.txt .*{what}"):
        read([data])


@pytest.mark.parametrize(("offset", "magic", "what", "fix"), SIGNATURES)
def test_every_known_binary_format_is_refused(offset: int, magic: bytes, what: str, fix: str) -> None:
    with pytest.raises(TextError) as error:
        read([b"x" * offset + magic + b" and more"])
    assert error.value.message == f"stories.txt is not text: it is {what}."
    assert error.value.hint == fix


def test_random_bytes_are_refused_with_their_share_of_control_bytes() -> None:
    noise = np.random.default_rng(3).integers(0, 256, 2**19, dtype=np.uint8).tobytes()
    with pytest.raises(TextError, match=r"stories\.txt is not text: 10 % of its first 64 KiB are control bytes"):
        read([noise])


def test_the_control_share_of_a_short_file_is_of_all_bytes() -> None:
    with pytest.raises(TextError, match="37 % of its first 1,000 bytes are control bytes"):
        read([b"\x01" * 370 + b"a" * 630])


def test_a_stray_nul_is_damage_and_not_a_binary_file() -> None:
    assert read([b"once\0upon a time"]) == b"once\0upon a time"


@pytest.mark.parametrize(("language", "encoding"), [("russian", "cp1251"), ("french", "cp1252"), ("japanese", "cp932")])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_sure_encoding_is_converted_and_reported(language: str, encoding: str, size: int) -> None:
    raw = b"Chapter 1\n" * 20 + encoded(language, encoding)
    notes = ReadReport()
    assert read((raw[i : i + size] for i in range(0, len(raw), size)), notes).decode() == raw.decode(encoding)
    assert list(notes.messages()) == [f"encoding of stories.txt: {encoding} (detected); --encoding sets another one"]


def test_the_encoding_is_detected_where_the_first_foreign_bytes_are() -> None:
    french = encoded("french", "cp1252")
    raw = b"A fox.\n" * 100_000 + french
    assert read([raw[:300_000], raw[300_000:]]).decode().endswith(french.decode("cp1252"))


def test_a_damaged_byte_in_utf8_is_no_other_encoding() -> None:
    raw = (STORY * 50).encode() + b"caf\xe9 \xfc\n"
    notes = ReadReport()
    assert read([raw], notes) == raw
    assert not list(notes.messages())


def test_an_unsure_encoding_is_a_hint_with_what_it_reads_as() -> None:
    notes = ReadReport()
    raw = b"Once upon a time. " * 20 + b"caf\xe9 noir\n"
    assert read([raw], notes) == raw
    (message,) = notes.messages()
    assert message.startswith("stories.txt is not UTF-8. It may be cp1252, where it reads ")
    assert "café noir': --encoding cp1252" in message


def test_two_likely_encodings_are_named_with_what_each_reads_as_and_how_to_choose() -> None:
    notes = ReadReport()
    read(["Le café noir est là.\n".encode("latin-1")], notes)
    assert list(notes.messages()) == [
        "stories.txt is not UTF-8. It may be cp1252, where it reads 'Le café noir est là.': --encoding cp1252, "
        "or cp1250, where it reads 'Le café noir est lŕ.': --encoding cp1250."
    ]


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16", "utf-32", "utf-8-sig", "gb18030", "utf-7"])
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_given_encoding_is_used_without_detection(encoding: str, size: int) -> None:
    text = LANGUAGES["russian"][1]
    raw = text.encode(encoding, "ignore")
    blocks = (raw[i : i + size] for i in range(0, len(raw), size))
    got = b"".join(to_utf8_blocks(blocks, "stories.txt", ReadReport(), encoding))
    assert got.decode() == raw.decode(encoding)


def test_bytes_without_a_meaning_in_the_encoding_are_left_to_the_policy() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"".join(to_utf8_blocks(iter([b"caf\xe9 \x81 noir"]), "a.txt", ReadReport(), "cp1252")).decode()


def test_utf8_that_is_read_in_another_encoding_is_reported() -> None:
    notes = ReadReport()
    b"".join(to_utf8_blocks(iter([STORY.encode()]), "a.txt", notes, "cp1252"))
    assert list(notes.messages()) == ["a.txt is valid UTF-8, but is read as cp1252 (--encoding)"]
