"""What a model may write, made harmless for a terminal: control sequences are shown, not obeyed."""

import re
import unicodedata

# Control, format, surrogate and line-separator characters. Format characters are the bidirectional overrides, the
# invisible tags and their like; the two joiners are kept, for they shape Persian, Hindi and emoji.
CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"}
# Printable ASCII, newline and tab are most of any text, and need no look.
_UNUSUAL = re.compile(r"[^\n\t\x20-\x7e]")


def escape(text: str) -> str:
    r"""Text with every character that a terminal would obey written as ``\x1b``, ``\u202e`` and the like."""
    return _UNUSUAL.sub(lambda match: _escaped(match.group()), text)


def _escaped(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in CONTROL_CATEGORIES:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
