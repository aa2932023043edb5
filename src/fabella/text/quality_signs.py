"""Signs that text was damaged before it came here: it is valid UTF-8, and yet not what its author wrote."""

import re
import unicodedata

CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\f") + b"\x7f"
# UTF-8 read as Latin-1 or Windows-1252 and written again: "é" has become "Ã©", "’" "â€™".
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00c2[\u0080-\u00bf]|\u00e2\u20ac|\u00e2\u0080|\u00f0\u0178|\u00f0\u009f")
MARKUP = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[0-9a-f]+);|</?(?:p|br|div|span|a|b|i|li|ul|td|tr)\b[^>]*>", re.I
)

SIGNS = {
    "replacement_characters": "hold U+FFFD, where a character was lost",
    "mojibake": "hold letters like \u00c3\u00a9 for \u00e9: UTF-8 that was read as Latin-1",
    "control_characters": "hold control characters",
    "markup": "hold HTML (tags, or names like &amp;)",
    "not_composed": "spell accents as separate characters (not NFC); the same word in two spellings is two words",
}
"""sign → what is said of the documents that show it"""


def mojibake_signs(text: str, data: bytes) -> list[str]:
    """Which of ``SIGNS`` a document shows; ``data`` is its UTF-8. Fast where there are none, as there should be."""
    found: list[str] = []
    if len(data) != len(data.translate(None, CONTROL)):
        found.append("control_characters")
    if ("&" in text or "<" in text) and MARKUP.search(text):
        found.append("markup")
    if len(data) == len(text):  # ASCII
        return found
    if "\N{REPLACEMENT CHARACTER}" in text:
        found.append("replacement_characters")
    if MOJIBAKE.search(text):
        found.append("mojibake")
    if not unicodedata.is_normalized("NFC", text):
        found.append("not_composed")
    return found
