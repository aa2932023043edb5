"""Nothing that a model writes can command a terminal; what people write stays as it is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.tracking.terminal_escape import escape


@given(text=st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    left = set(escape(text)) - {"\n", "\t", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}
    assert not [character for character in left if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@given(first=st.text(), second=st.text())
def test_text_may_be_escaped_piece_by_piece(first: str, second: str) -> None:
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
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert escape(text) == text


def test_what_is_escaped_can_be_read() -> None:
    assert escape("\x1b[2J\x07\x9b1m\u202e\U000e0041") == r"\x1b[2J\x07\x9b1m\u202e\U000e0041"
