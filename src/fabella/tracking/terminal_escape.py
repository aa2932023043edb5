"""Escape control characters, so that generated text cannot control the terminal."""

import re
import unicodedata

# Control, format, surrogate and line-separator characters. Format characters include bidirectional overrides and
# invisible tags. The two zero-width joiners are allowed: Persian, Hindi and emoji need them.
CONTROL_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_ALLOWED = {"\n", "\t", "\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"}
# Most text is printable ASCII, newlines and tabs, which need no lookup.
_OTHER = re.compile(r"[^\n\t\x20-\x7e]")


def escape(text: str) -> str:
    r"""Return ``text`` with control characters written as ``\x1b``, ``\u202e`` etc."""
    return _OTHER.sub(lambda match: _escaped(match.group()), text)


def _escaped(character: str) -> str:
    if character in _ALLOWED or unicodedata.category(character) not in CONTROL_CATEGORIES:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
