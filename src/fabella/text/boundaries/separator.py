"""Split a stream of blocks into documents at a separator."""

import re
from collections.abc import Iterator
from itertools import chain

from fabella.text.decode_policy import LONGEST_DOCUMENT, split_long
from fabella.text.read_report import ReadReport

WITHOUT_MARKERS = ("file", "blank-lines", "lines")

BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")
LEADING_BLANK_LINES = re.compile(rb"(?:[ \t]*\n)+")
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\n"}
ESCAPE = re.compile(r"\\r\\n|\\[ntr]")


def unescape(separator: str) -> str:
    r"""Return a separator as typed in a shell with ``\n`` and ``\t`` as line end and tab, and line ends as ``\n``."""
    typed = ESCAPE.sub(lambda match: ESCAPES.get(match[0], "\n"), separator)
    return typed.replace("\r\n", "\n")


def is_line(separator: str) -> bool:
    """Return True for a separator that is a line of its own, such as ``\\n---\\n``."""
    return separator not in WITHOUT_MARKERS and len(separator) > 2 and separator[0] == separator[-1] == "\n"


def split_documents(blocks: Iterator[bytes], separator: str, notes: ReadReport) -> Iterator[tuple[int, bytes]]:
    """Yield (first line, counted from 1; bytes) of every document; memory is bounded by LONGEST_DOCUMENT.

    A separator ``\\n---\\n`` is a line of its own, also the first and the last one. Blank lines before a document and
    white space after it are stripped. A document longer than LONGEST_DOCUMENT comes in several parts. Two markers in a
    row enclose an empty document; repeated blank lines do not.
    """
    pattern = _pattern(separator)
    line, rest, cutting = 1, b"", False
    if is_line(separator):  # a line end before the first line and after the last one
        line, blocks = 0, chain([b"\n"], blocks, [b"\n"])
    for block in blocks:
        rest += block
        start = 0
        for border in pattern.finditer(rest) if pattern else ():
            yield from _trimmed(line, rest[start : border.start()], separator)
            line += rest.count(b"\n", start, border.end())
            start, cutting = border.end(), False
        while len(rest) - start > LONGEST_DOCUMENT:
            notes.cut += not cutting
            end, cutting = split_long(rest, start), True
            yield from _trimmed(line, rest[start:end], separator)
            line += rest.count(b"\n", start, end)
            start = end
        rest = rest[start:]
    if rest.strip():
        yield from _trimmed(line, rest, separator)


def _pattern(separator: str) -> re.Pattern[bytes] | None:
    if separator == "file":
        return None
    if separator == "blank-lines":
        return BLANK_LINES
    if is_line(separator):
        return re.compile(rb"\n[ \t]*" + re.escape(separator.strip("\n").encode()) + rb"[ \t]*(?=\n)")
    return re.compile(b"\n" if separator == "lines" else re.escape(separator.encode()))


def _trimmed(line: int, raw: bytes, separator: str) -> tuple[tuple[int, bytes]] | tuple[()]:
    start = match.end() if (match := LEADING_BLANK_LINES.match(raw)) else 0
    text = raw[start:].rstrip()
    if text or separator not in WITHOUT_MARKERS:
        return ((line + raw.count(b"\n", 0, start), text),)
    return ()
