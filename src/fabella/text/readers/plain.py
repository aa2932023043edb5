"""Reader of plain text: documents between two separators, or one running text."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from fabella.text.boundaries.boilerplate import read_head, without_gutenberg
from fabella.text.boundaries.detect import SAMPLE_BYTES, detect_boundary
from fabella.text.boundaries.separator import WITHOUT_MARKERS, split_documents
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions

SUFFIXES = frozenset({".txt", ".text"})

NEWLINE = b"\n"


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the documents between two separators. Raises TextError for a binary or damaged file."""
    blocks = read_utf8(path, options, policy.notes)
    return read_text(blocks, str(path), options, policy)


def read_text(blocks: Iterator[bytes], name: str, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the documents of a text given as blocks of UTF-8."""
    notes, separator, detection = policy.notes, options.separator, None
    if not options.keep_boilerplate:
        blocks = without_gutenberg(blocks, name, notes)
    if separator == "auto":
        head, blocks = read_head(blocks, SAMPLE_BYTES)
        boundary = detect_boundary(head[:SAMPLE_BYTES].decode("utf-8", "ignore"), one_text=options.one_text)
        separator, blocks = boundary.separator, chain([head], blocks)
        detection = notes.add_detection("separator", separator, name, boundary.hint)
    count = 0
    for line, raw in split_documents(blocks, separator, notes):
        count += 1
        for text in policy.text(raw, partial(_location, name, line)):
            if detection:
                detection.documents += 1
            yield text
    if separator not in WITHOUT_MARKERS and not detection:
        notes.count_separator(separator, name, used=count > 1)


def _location(name: str, line: int, raw: bytes, offset: int) -> str:
    number, column = line + raw.count(NEWLINE, 0, offset), offset - raw.rfind(NEWLINE, 0, offset)
    return f"{name}, line {number}, byte {column}"
