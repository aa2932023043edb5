"""Document separator of plain text: detection, and splitting a stream of blocks into documents."""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from fabella.text.decode_policy import LONGEST_DOCUMENT, split_long
from fabella.text.read_report import ReadReport

# Markers that end a document in common datasets; none occurs in prose by chance.
MARKERS = (
    "<|endoftext|>", "<|end_of_text|>", "<|endofstory|>", "<|eot|>", "<|eos|>", "</s>", "<eos>", "<EOS>", "[EOS]",
)  # fmt: skip
WITHOUT_MARKERS = ("file", "blank-lines", "lines")
MIN_PIECES = 10
"""Blocks or lines needed to detect a separator from them."""
MANY_FILES = 20
"""Files without markers from which on each file is one document."""
SENTENCE_LINES = 0.7
"""Share of lines that end like a sentence, 0 to 1, from which on each line is one document."""
WRAPPED = 0.75
"""Lines wrapped by an editor are nearly equally long: the median is at least this share of the 90th percentile."""
WRAPPED_LENGTH = 40
"""Characters that the 90th percentile of wrapped lines has at least."""

SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019\u00bb)\]*_]*\s*$")
BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")
LEADING_BLANK_LINES = re.compile(rb"(?:[ \t]*\n)+")


def detect_separator(samples: Sequence[str], *, files: int) -> str:
    """Return a marker, ``blank-lines``, ``lines`` or ``file`` for ``files`` files; ``samples`` are their beginnings."""
    for marker in MARKERS:
        if any(marker in sample for sample in samples):
            return marker
    if files >= MANY_FILES:
        return "file"
    sample = "\n\n".join(sample.strip() for sample in samples)
    if len(BLANK_LINES.findall(sample.encode())) >= MIN_PIECES - 1:
        return "blank-lines"
    return "lines" if _lines_are_documents(sample) else "file"


def _lines_are_documents(sample: str) -> bool:
    lines = [line for line in sample.split("\n") if line.strip()]
    if len(lines) < MIN_PIECES:
        return False
    if sum(1 for line in lines if SENTENCE_END.search(line)) >= SENTENCE_LINES * len(lines):
        return True
    lengths = sorted(len(line) for line in lines)
    longest = lengths[int(0.9 * len(lengths))]
    return longest < WRAPPED_LENGTH or median(lengths) < WRAPPED * longest


def split_documents(blocks: Iterator[bytes], separator: str, notes: ReadReport) -> Iterator[tuple[int, bytes]]:
    """Yield (first line, counted from 1; bytes) of every document; memory is bounded by LONGEST_DOCUMENT.

    Blank lines before a document and white space after it are stripped. A document longer than LONGEST_DOCUMENT comes
    in several parts. Two markers in a row enclose an empty document; repeated blank lines do not.
    """
    pattern = _pattern(separator)
    line, rest, cutting = 1, b"", False
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
    return re.compile(b"\n" if separator == "lines" else re.escape(separator.encode()))


def _trimmed(line: int, raw: bytes, separator: str) -> Iterator[tuple[int, bytes]]:
    start = match.end() if (match := LEADING_BLANK_LINES.match(raw)) else 0
    text = raw[start:].rstrip()
    if text or separator not in WITHOUT_MARKERS:
        yield line + raw.count(b"\n", 0, start), text
