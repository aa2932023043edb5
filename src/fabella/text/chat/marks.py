"""Marks in the text of a document: its special tokens, and the parts that are answers.

A document is a string from the reader to the tokenizer. Where a chat template has written it, noncharacters of Unicode,
which are reserved for internal use (The Unicode Standard, section 23.7), mark what is more than plain text. A
noncharacter in the text itself is escaped, so that no text can imitate a mark.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

ANSWER_START, ANSWER_END = "\ufdd0", "\ufdd1"
SPECIAL_START, SPECIAL_END = "\ufdd2", "\ufdd3"
"""Around the text of a special token."""
EOS, BOS = "\ufdd4", "\ufdd5"
"""The tokenizer's token that ends, that starts a document."""
BREAK = "\ufdd6"
"""Inside the text of a special token that is plain text."""
ESCAPE = "\ufdd7"
"""Before the digit of a noncharacter that is part of the text."""
MARKS = ANSWER_START + ANSWER_END + SPECIAL_START + SPECIAL_END + EOS + BOS + BREAK + ESCAPE
FIRST_BYTES = ANSWER_START.encode()[:2]
"""Bytes of UTF-8 with which every mark begins."""

_MARK = re.compile(f"([{MARKS}])")
_ESCAPES = {ord(mark): f"{ESCAPE}{number}" for number, mark in enumerate(MARKS)}

Kind = Literal["text", "special", "eos", "bos"]


class Piece(NamedTuple):
    """Part of a document: plain text, the text of a special token, or the token that ends or starts a document."""

    kind: Kind
    text: str
    answer: bool


def has_marks(text: str) -> bool:
    """Return whether ``text`` contains marks or escapes."""
    return not text.isascii() and any(mark in text for mark in MARKS)


def escape(raw: bytes) -> bytes:
    """Escape the noncharacters of a text in UTF-8 that would be marks."""
    if FIRST_BYTES not in raw:
        return raw
    for number, mark in enumerate(reversed(MARKS)):  # the escape itself first
        raw = raw.replace(mark.encode(), f"{ESCAPE}{len(MARKS) - 1 - number}".encode())
    return raw


def escape_text(text: str) -> str:
    """Escape the noncharacters of a text that would be marks."""
    return text.translate(_ESCAPES) if has_marks(text) else text


def plain_text(text: str) -> str:
    """Return a document without its marks; special tokens are spelled out, except those that end or start it."""
    return "".join(piece.text for piece in parse(text)) if has_marks(text) else text


def learned_text(text: str) -> str | None:
    """Return the answers of a document without their special tokens; None for a document without marks of answers."""
    if ANSWER_START not in text and ANSWER_END not in text:
        return None
    return "\n".join(piece.text for piece in parse(text) if piece.answer and piece.kind == "text")


def text_parts(text: str) -> Iterator[str]:
    """Yield the plain text between the special tokens of a document."""
    if has_marks(text):
        yield from (piece.text for piece in parse(text) if piece.kind == "text")
    else:
        yield text


def split_special(text: str, special: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """Yield (part of the text, whether it is one of the special tokens) for each part."""
    end = 0
    for found in special.finditer(text):
        if found.start() > end:
            yield text[end : found.start()], False
        yield found[0], True
        end = found.end()
    if end < len(text):
        yield text[end:], False


def parse(text: str) -> Iterator[Piece]:
    """Yield the pieces of a document in order; neighbors differ in kind or in ``answer``.

    A document that was cut inside an answer begins in it; a special token that was cut is plain text.
    """
    parts = _MARK.split(text)
    first = next((part for part in parts if part in (ANSWER_START, ANSWER_END)), ANSWER_START)
    answer, pending = first == ANSWER_END, ""
    special: str | None = None
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pending += part
        elif part == ESCAPE:
            digit, rest = parts[number + 1][:1], parts[number + 1][1:]
            pending += MARKS[int(digit)] if digit.isdecimal() and int(digit) < len(MARKS) else digit
            parts[number + 1] = rest
        elif part == SPECIAL_START:
            special, pending = pending, ""
        elif part == SPECIAL_END and special is not None:
            yield from _text(special, answer)
            yield Piece("special", pending, answer)
            special, pending = None, ""
        elif part in (ANSWER_START, ANSWER_END) and (part == ANSWER_START) != answer:
            yield from _text((special or "") + pending, answer)
            special, pending, answer = None, "", part == ANSWER_START
        elif part in (EOS, BOS):
            yield from _text((special or "") + pending, answer)
            special, pending = None, ""
            yield Piece("eos" if part == EOS else "bos", "", answer)
    yield from _text((special or "") + pending, answer)


def _text(text: str, answer: bool) -> Iterator[Piece]:
    if text:
        yield Piece("text", text, answer)
