"""Tests that encodings are known by any of their names, and that other codecs are refused."""

import pytest

from fabella.errors import TextError
from fabella.text.decoding.encoding_names import USUAL, canonical_name, require_encoding


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Windows-1252", "cp1252"), ("latin1", "iso8859-1"), ("ISO-8859-1", "iso8859-1"), (" UTF8 ", "utf-8"),
        ("Shift_JIS", "shift_jis"), ("GB2312", "gb2312"), ("KOI8-R", "koi8-r"), ("UTF-8-SIG", "utf-8-sig"),
    ],
)  # fmt: skip
def test_names_are_spelled_as_python_spells_them(name: str, known: str) -> None:
    assert require_encoding(name) == known


def test_auto_is_kept() -> None:
    assert require_encoding("Auto") == "auto"


@pytest.mark.parametrize("name", ["rot13", "base64", "hex", "idna", "punycode", "unicode_escape", "zip", "", "a\0b"])
def test_codecs_that_are_not_encodings_of_text_are_refused(name: str) -> None:
    with pytest.raises(TextError, match="Unknown encoding"):
        require_encoding(name)


def test_a_wrong_name_leads_to_the_nearest() -> None:
    with pytest.raises(TextError, match=r"Unknown encoding 'cp125l'\. Did you mean 'cp1258'"):
        require_encoding("cp125l")


def test_every_suggested_encoding_exists() -> None:
    assert all(canonical_name(name) for name in USUAL)
