"""One document's bytes → text that is surely UTF-8, under one of three policies for damage: strict, replace, skip."""

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fabella.errors import TextError
from fabella.text.read_report import ReadReport

Invalid = Literal["strict", "replace", "skip"]

LONGEST_DOCUMENT = 2**20
"""bytes; a longer document is cut into several, so that memory stays bounded whatever comes"""

# Where a document that is too long may be cut: after a blank line, else after a line, else after a space.
BORDERS = (b"\n\n", b"\n", b" ")
CP1252_MARKS = b"\x85\x91\x92\x93\x94\x96\x97"  # its ellipsis, quotation marks and dashes
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
KEEP_GOING = 'Repair it, or set invalid_text to "replace" (puts in U+FFFD) or "skip" (leaves the document out).'


# (the document's bytes, an offset in them) → where that is, for an error: "stories.txt, line 12, byte 4".
Where = Callable[[bytes, int], str]


@dataclass(slots=True)
class DecodePolicy:
    """One pass over a source: its policies, and the notes it fills."""

    invalid: Invalid = "strict"
    max_bad_lines: int = 0
    notes: ReadReport = field(default_factory=ReadReport)
    bad_lines: int = 0

    def text(self, raw: bytes, where: Where) -> Iterator[str]:
        """The document of these bytes: nothing if it is empty or skipped, several pieces if it is too long.

        Line ends become ``\\n``.
        """
        if b"\r" in raw:
            raw, count = plain_line_ends(raw)
            self.notes.carriage_returns += count
        if len(raw) <= LONGEST_DOCUMENT:
            yield from self._piece(raw, 0, len(raw), where)
            return
        self.notes.cut += 1
        for start, end in iter_blocks(raw):
            yield from self._piece(raw, start, end, where)

    def string(self, text: str, where: Where) -> Iterator[str]:
        """The same for text that a parser already decoded: it may hold NUL characters and lone surrogates."""
        return self.text(text.encode("utf-8", "surrogatepass"), where)

    def bad_line(self, where: str, reason: str) -> None:
        """Count a line that holds no document. Raises TextError once there are more than ``max_bad_lines``."""
        self.bad_lines += 1
        if self.bad_lines > self.max_bad_lines:
            budget = f" It is one more than max_bad_lines = {self.max_bad_lines}." if self.max_bad_lines else ""
            fix = f"Repair it, or leave such lines out with max_bad_lines={max(10, 10 * self.max_bad_lines)}."
            raise TextError(f"{where}: {reason}{budget}", hint=fix)
        self.notes.bad_lines += 1
        self.notes.example(f"{where}: {reason}")

    def _piece(self, raw: bytes, start: int, end: int, where: Where) -> Iterator[str]:
        piece = raw[start:end]
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            text = self._damaged(piece, where(raw, start + error.start), error.start)
        else:
            if "\0" in text:
                at = piece.index(b"\0")
                text = self._damaged(piece, where(raw, start + at), at)
        if text is None:
            return
        if not text or text.isspace():
            self.notes.empty += 1
            return
        self.notes.documents += 1
        yield text

    def _damaged(self, raw: bytes, place: str, at: int) -> str | None:
        problem = f"{place}: {describe_damage(raw, at)}"
        if self.invalid == "strict":
            raise TextError(problem, hint=f"{legacy_hint(raw, at)}{KEEP_GOING}")
        self.notes.damaged += 1
        self.notes.example(problem)
        if self.invalid == "skip":
            self.notes.skipped += 1
            return None
        text = SURROGATE.sub(b"\xff", raw).decode("utf-8", "replace").replace("\0", REPLACEMENT)
        lost_before = raw.count(REPLACEMENT.encode())
        self.notes.replaced += text.count(REPLACEMENT) - lost_before
        self.notes.mended += not lost_before
        return text


def plain_line_ends(raw: bytes) -> tuple[bytes, int]:
    """``raw`` with every ``\\r\\n`` and every lone ``\\r`` made ``\\n``, and how many there were."""
    count = raw.count(b"\r")
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), count


def describe_damage(raw: bytes, at: int) -> str:
    """What is wrong at byte ``at``, with the bytes before it for finding the place in an editor."""
    near = raw[max(0, at - 20) : at].decode("utf-8", "ignore").rpartition("\n")[2]
    after = f" after {near!r}" if near else ""
    if raw[at] == 0:
        return f"a NUL character{after}; text has none."
    if SURROGATE.match(raw, at):
        return f"half a character (a lone surrogate){after}; it is not valid Unicode."
    return f"0x{raw[at]:02X}{after} is not UTF-8."


def legacy_hint(raw: bytes, at: int) -> str:
    """The command that converts Windows-1252, where the damaged place reads as a letter in it."""
    try:
        letter = codecs.decode(raw[at : at + 1], "cp1252")
    except UnicodeDecodeError:
        return ""
    if not letter.isalpha() and raw[at] not in CP1252_MARKS:
        return ""
    return f"It may be Windows-1252, where this byte is {letter!r}: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW. "


def iter_blocks(raw: bytes) -> Iterator[tuple[int, int]]:
    """``raw`` in pieces of at most LONGEST_DOCUMENT bytes, cut at the best border of each one's second half."""
    start = 0
    while len(raw) - start > LONGEST_DOCUMENT:
        end = split_long(raw, start)
        yield start, end
        start = end
    yield start, len(raw)


def split_long(raw: bytes, start: int) -> int:
    """Where the piece that begins at ``start`` ends: never inside a character."""
    end = start + LONGEST_DOCUMENT
    for border in BORDERS:
        found = raw.rfind(border, start + LONGEST_DOCUMENT // 2, end)
        if found >= 0:
            return found + len(border)
    while end > start + LONGEST_DOCUMENT - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return end
