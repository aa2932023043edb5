"""Tests that generated text cannot control the terminal, and that ordinary text is unchanged."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.tracking.terminal_escape import escape

CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(text=st.text())
def test_no_control_character_is_left(text: str) -> None:
    remaining = set(escape(text)) - {"\n", "\t", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}
    assert not [
        character for character in remaining if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


@given(first=st.text(), second=st.text())
def test_text_can_be_escaped_in_pieces(first: str, second: str) -> None:
    assert escape(first + second) == escape(first) + escape(second)


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time,\n\tthere was…",
        "naïve “dragon” 龍 🐉",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "क्\N{ZERO WIDTH JOINER}ष",
        "👩\N{ZERO WIDTH JOINER}👧",
        "שלום",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert escape(text) == text


def test_escapes_are_readable() -> None:
    assert escape("\x1b[2J\x07\x9b1m\u202e\U000e0041") == r"\x1b[2J\x07\x9b1m\u202e\U000e0041"
