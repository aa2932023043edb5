"""Where one document of a text file ends and the next begins: guessing the separator, and splitting at it."""

import re
from collections.abc import Iterator, Sequence
from statistics import median

from fabella.text.decode_policy import LONGEST_DOCUMENT, split_long
from fabella.text.read_report import ReadReport

# Spellings that mark the end of a text in data sets; nobody writes them by chance.
MARKERS = (
    "<|endoftext|>", "<|end_of_text|>", "<|endofstory|>", "<|eot|>", "<|eos|>", "</s>", "<eos>", "<EOS>", "[EOS]",
)  # fmt: skip
WITHOUT_MARKS = ("file", "blank-lines", "lines")
ENOUGH = 10
"""blocks or lines from which a pattern is believed"""
MANY = 20
"""text files without markers from which each of them is believed to be one document"""
CLOSED = 0.7
"""share of lines that end as a sentence does, from which each line is believed to be a text of its own"""
WRAPPED = 0.75
"""Lines broken by an editor are nearly equally long: the median is at least this share of the 90th percentile, …"""
WRAPPED_AT = 40
"""… and that is at least so many characters."""

SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019\u00bb)\]*_]*\s*$")
BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")
LEADING_BLANK_LINES = re.compile(rb"(?:[ \t]*\n)+")


def detect_separator(samples: Sequence[str], *, files: int) -> str:
    """A marker, ``blank-lines``, ``lines`` or ``file`` for so many text files, of which ``samples`` are beginnings."""
    for marker in MARKERS:
        if any(marker in sample for sample in samples):
            return marker
    if files >= MANY:
        return "file"
    sample = "\n\n".join(sample.strip() for sample in samples)
    if len(BLANK_LINES.findall(sample.encode())) >= ENOUGH - 1:
        return "blank-lines"
    return "lines" if _each_line_stands_alone(sample) else "file"


def _each_line_stands_alone(sample: str) -> bool:
    lines = [line for line in sample.split("\n") if line.strip()]
    if len(lines) < ENOUGH:
        return False
    if sum(1 for line in lines if SENTENCE_END.search(line)) >= CLOSED * len(lines):
        return True
    lengths = sorted(len(line) for line in lines)
    longest = lengths[int(0.9 * len(lengths))]
    return longest < WRAPPED_AT or median(lengths) < WRAPPED * longest


def split_documents(blocks: Iterator[bytes], separator: str, notes: ReadReport) -> Iterator[tuple[int, bytes]]:
    """(line it begins on, counted from 1; its bytes) of every document; memory is bounded by LONGEST_DOCUMENT.

    Blank lines before a document and white space after it belong to its border. One longer than
    LONGEST_DOCUMENT may come in pieces. Only markers have empty documents between them: blank lines just add up.
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
    if text or separator not in WITHOUT_MARKS:
        yield line + raw.count(b"\n", 0, start), text
