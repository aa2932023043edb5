"""Reader of plain text: one document between two separators."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fabella.text.compression import read_blocks
from fabella.text.decode import to_utf8_blocks
from fabella.text.decode_policy import DecodePolicy
from fabella.text.document_separator import split_documents
from fabella.text.readers.read_options import ReadOptions

SUFFIXES = frozenset({".txt", ".text", ".md"})

NEWLINE = b"\n"


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the documents between two separators. Raises TextError for a binary or damaged file."""
    notes, name, separator = policy.notes, str(path), options.separator
    detection = notes.add_detection("separator", separator, name) if options.separator_detected else None
    for line, raw in split_documents(to_utf8_blocks(read_blocks(path), name, notes), separator, notes):
        for text in policy.text(raw, partial(_location, name, line)):
            if detection:
                detection.documents += 1
            yield text


def _location(name: str, line: int, raw: bytes, offset: int) -> str:
    number, column = line + raw.count(NEWLINE, 0, offset), offset - raw.rfind(NEWLINE, 0, offset)
    return f"{name}, line {number}, byte {column}"
