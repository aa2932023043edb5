"""Tests that an encoding is detected from real sentences in many languages, and that a sure one is never wrong."""

import random

import pytest

from fabella.text.decoding.detect_encoding import detect_encoding, odd_places
from tests.text.languages import LANGUAGES, encoded

CASES = [(language, encoding) for language, (encodings, _) in LANGUAGES.items() for encoding in encodings]
UNSURE = {("czech", "iso8859-2")}
"""Short texts that read as well in another encoding."""


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_a_paragraph_is_read_as_it_was_written(language: str, encoding: str) -> None:
    raw = encoded(language, encoding)
    found = detect_encoding(raw)
    assert found is not None
    assert raw.decode(found.name) == raw.decode(encoding)
    assert found.sure != ((language, encoding) in UNSURE)


@pytest.mark.parametrize("length", [6, 30, 100])
def test_a_sure_encoding_of_a_small_piece_is_right(length: int) -> None:
    sure = 0
    for language, encoding in CASES:
        text = encoded(language, encoding).decode(encoding)
        start = random.Random(f"{language}{encoding}{length}").randrange(max(len(text) - length, 1))
        raw = text[start : start + length].encode(encoding)
        found = None if raw.isascii() and b"\x1b" not in raw else detect_encoding(raw)
        if found and found.sure:
            sure += 1
            assert raw.decode(found.name) == raw.decode(encoding), (language, encoding, found)
    assert sure > (0 if length == 6 else 10)


@pytest.mark.parametrize(
    "raw",
    [
        random.Random(1).randbytes(2000),
        (LANGUAGES["french"][1].encode() + b"\n" + LANGUAGES["french"][1].encode("cp1252") + b"\n") * 3,
        LANGUAGES["russian"][1].encode("cp1251") + b"\n" + LANGUAGES["french"][1].encode("cp1252"),
    ],
    ids=["noise", "half UTF-8", "two encodings"],
)
def test_bytes_of_no_single_encoding_have_none(raw: bytes) -> None:
    assert detect_encoding(raw) is None


def test_one_byte_is_too_little_to_be_sure() -> None:
    found = detect_encoding(b"A fox went out into the snow. " * 50 + b"caf\xe9 noir")
    assert found is not None
    assert (found.name, found.sure) == ("cp1252", False)
    assert "café noir" in found.excerpt


SHORT = {
    "latin-1": ("Le café noir est là.\n", "cp1252", "cp1250", "est lŕ"),
    "cp1252": ("It\u2019s late — “run”\n", "cp1252", "", ""),
    "cp1251": ("Лиса\n", "cp1251", "tis-620", "ห่๑เ"),
    "shift_jis": ("むかし\n", "cp932", "", ""),
}
"""Encoding → a short text, the likely encoding, the runner-up and what it reads as."""


@pytest.mark.parametrize("encoding", SHORT)
def test_an_unsure_encoding_of_a_short_text_has_a_runner_up_if_another_reads_as_text(encoding: str) -> None:
    text, likely, other, reading = SHORT[encoding]
    found = detect_encoding(text.encode(encoding))
    assert found is not None
    assert (found.name, found.sure, found.excerpt) == (likely, False, text.strip()[:40])
    assert bool(found.runner_up) == bool(other)
    if found.runner_up:
        assert found.runner_up.name == other
        assert reading in found.runner_up.excerpt


def test_a_sure_encoding_has_no_runner_up() -> None:
    found = detect_encoding("Жила была лиса.\n".encode("cp1251"))
    assert found is not None
    assert found.sure
    assert found.runner_up is None


def test_a_mark_of_another_script_does_not_stand_on_a_latin_letter() -> None:
    assert odd_places("caf้") is None
    assert odd_places("cafe\u0301") == 0
    assert odd_places("ภาษาไทย") == 0
