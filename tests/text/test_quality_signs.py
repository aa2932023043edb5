"""Signs of damage in text that is valid UTF-8 all the same."""

import pytest

from fabella.text.quality_signs import SIGNS, mojibake_signs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Once upon a time, a fox.\n\tSaid: “Grüß Gott!” 🦊 naïve café", []),
        ("caf\ufffd", ["replacement_characters"]),
        ("café".encode().decode("latin-1"), ["mojibake"]),
        ("it\u2019s".encode().decode("cp1252"), ["mojibake"]),
        ("a\u00a0b".encode().decode("latin-1"), ["mojibake"]),
        ("🦊".encode().decode("cp1252"), ["mojibake"]),
        ("bell \x07", ["control_characters"]),
        ("del \x7f and é", ["control_characters"]),
        ("Tom &amp; Jerry", ["markup"]),
        ("<p>Once</p>", ["markup"]),
        ("new<br/>line", ["markup"]),
        ("x < y & z > 3, Tom & Jerry", []),
        ("cafe\u0301", ["not_composed"]),
        ("a page\fbreak", []),
    ],
)
def test_signs_are_seen(text: str, found: list[str]) -> None:
    assert sorted(mojibake_signs(text, text.encode())) == sorted(found)
    assert set(found) <= set(SIGNS)
