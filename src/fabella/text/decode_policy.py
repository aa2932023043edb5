"""Decode the bytes of a document under one of three policies for damage: strict, replace, skip."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fabella.errors import TextError
from fabella.text.chat.marks import escape_text
from fabella.text.chat.template import ConversationWriter, default_writer
from fabella.text.read_report import ReadReport

DecodeErrors = Literal["strict", "replace", "skip"]

LONGEST_DOCUMENT = 2**20
"""Bytes of a document at most; a longer one is cut into several, so that memory stays bounded."""

# A document that is too long is cut after a blank line, else after a line, else after a space.
BORDERS = (b"\n\n", b"\n", b" ")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
ESCAPED_BYTE = re.compile(rb"\xed\xb2[\x80-\xbf]|\xed\xb3[\x80-\xbf]")
"""U+DC80 to U+DCFF, which stand for a byte without a meaning in the encoding of its file."""
DECODE_ERRORS_HINT = "Repair it, or use --decode-errors replace (inserts U+FFFD) or skip (drops the document)."


# (bytes of the document, offset in them) → location for an error: "stories.txt, line 12, byte 4".
Locate = Callable[[bytes, int], str]


@dataclass(slots=True)
class DecodePolicy:
    """Policies for damage and for conversations during one read of a source, and the report that the read fills."""

    decode_errors: DecodeErrors = "strict"
    max_bad_lines: int = 0
    """Broken lines that are skipped before the read fails, at least 0."""
    notes: ReadReport = field(default_factory=ReadReport)
    bad_lines: int = 0
    writer: ConversationWriter = field(default_factory=default_writer)
    """Writes the conversations of tables"""

    def text(self, raw: bytes, locate: Locate, *, written: bool = False) -> Iterator[str]:
        """Yield the decoded document: nothing if it is empty or skipped, several parts if it is too long.

        ``written``: the text comes from a table, and ``writer`` has written or escaped it.

        Line ends become ``\\n``. Raises TextError for damage under ``strict``.
        """
        if b"\r" in raw:
            raw, count = plain_line_ends(raw)
            self.notes.carriage_returns += count
        cuts = ((0, len(raw)),)
        if len(raw) > LONGEST_DOCUMENT:
            self.notes.cut += 1
            cuts = iter_blocks(raw)
        for start, end in cuts:
            text = self._part(raw, start, end, locate)
            if text is not None:
                yield escape_text(text) if self.writer.marks and not written else text

    def decoded_text(self, text: str, locate: Locate) -> Iterator[str]:
        """Apply ``text`` to a string that a parser decoded: it may contain NUL characters and lone surrogates."""
        return self.text(text.encode("utf-8", "surrogatepass"), locate)

    def bad_line(self, where: str, reason: str) -> None:
        """Count a line without a valid document. Raises TextError after more than ``max_bad_lines`` of them."""
        self.bad_lines += 1
        if self.bad_lines > self.max_bad_lines:
            budget = f" It exceeds --max-bad-lines {self.max_bad_lines}." if self.max_bad_lines else ""
            limit = max(10, 10 * self.max_bad_lines)
            hint = f"Repair it, or skip up to {limit} such lines: --max-bad-lines {limit}. check-data counts them."
            raise TextError(f"{where}: {reason}{budget}", hint=hint)
        self.notes.bad_lines += 1
        self.notes.add_example(f"{where}: {reason}")

    def _part(self, raw: bytes, start: int, end: int, locate: Locate) -> str | None:
        part = raw[start:end]
        try:
            text = part.decode()
        except UnicodeDecodeError as error:
            text = self._damaged(part, locate(raw, start + error.start), error.start)
        else:
            if "\0" in text:
                at = part.index(b"\0")
                text = self._damaged(part, locate(raw, start + at), at)
        if text is None:
            return None
        if not text or text.isspace():
            self.notes.empty += 1
            return None
        self.notes.documents += 1
        return text

    def _damaged(self, raw: bytes, location: str, at: int) -> str | None:
        problem = f"{location}: {describe_damage(raw, at)}"
        if self.decode_errors == "strict":
            raise TextError(problem, hint=f"{self.notes.encoding_hint(location)}{DECODE_ERRORS_HINT}")
        self.notes.damaged += 1
        self.notes.add_example(problem)
        if self.decode_errors == "skip":
            self.notes.skipped += 1
            return None
        text = SURROGATE.sub(b"\xff", raw).decode("utf-8", "replace").replace("\0", REPLACEMENT)
        lost_before = raw.count(REPLACEMENT.encode())
        self.notes.replaced += text.count(REPLACEMENT) - lost_before
        self.notes.mended += not lost_before
        return text


def plain_line_ends(raw: bytes) -> tuple[bytes, int]:
    """Return ``raw`` with every ``\\r\\n`` and lone ``\\r`` replaced by ``\\n``, and their number."""
    count = raw.count(b"\r")
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), count


def describe_damage(raw: bytes, at: int) -> str:
    """Describe the damage at byte ``at``, with the bytes before it to find the place in an editor."""
    near = raw[max(0, at - 20) : at].decode("utf-8", "ignore").rpartition("\n")[2]
    after = f" after {near!r}" if near else ""
    if raw[at] == 0:
        return f"a NUL character{after}; text must not contain any."
    if match := ESCAPED_BYTE.match(raw, at):
        byte = ord(match[0].decode("utf-8", "surrogatepass")) - 0xDC00
        return f"the byte 0x{byte:02X}{after} means nothing in the encoding of the file."
    if SURROGATE.match(raw, at):
        return f"a lone surrogate (half a character){after}; it is not valid Unicode."
    return f"0x{raw[at]:02X}{after} is not UTF-8."


def iter_blocks(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of parts of at most LONGEST_DOCUMENT bytes, cut at a border in their second half."""
    start = 0
    while len(raw) - start > LONGEST_DOCUMENT:
        end = split_long(raw, start)
        yield start, end
        start = end
    yield start, len(raw)


def split_long(raw: bytes, start: int) -> int:
    """Return the end of the part that begins at ``start``, never inside a character."""
    end = start + LONGEST_DOCUMENT
    for border in BORDERS:
        position = raw.rfind(border, start + LONGEST_DOCUMENT // 2, end)
        if position >= 0:
            return position + len(border)
    while end > start + LONGEST_DOCUMENT - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return end


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of a read. A reader ignores those that its format does not have."""

    separator: str = "auto"
    """Document separator of plain text: auto, file, blank-lines, lines, or the separator itself."""
    one_text: bool = False
    """Whether a file without markers is one document: true for each of many files."""
    column: str = "auto"
    """Text column of a table; auto detects it."""
    opened: Callable[[], Iterator[bytes]] | None = None
    """Opens the file in place of its path, for a file in an archive: yields its blocks, decompressed"""
    encoding: str = "auto"
    """Encoding of text files as Python spells it; auto detects it."""
    keep_boilerplate: bool = False
    """Whether header and licence of Project Gutenberg, and front matter, are read as text."""
