"""Reader of CSV: one row per document, with a header; the delimiter is detected."""

import csv
from collections.abc import Iterator
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.tables.rows import LONGEST_LINE, BadLine, Row, row_documents, split_lines

SUFFIXES = frozenset({".csv", ".tsv"})

LONGEST_NAME = 100
"""Characters of a column name at most; beyond it, the first line is text rather than a header."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row. Raises TextError without a header and for more broken rows than allowed."""
    name = str(path)
    rows = csv_rows(read_utf8(path, policy.notes, options.encoding), name, policy)
    return row_documents(rows, name, options, policy)


def csv_rows(blocks: Iterator[bytes], name: str, policy: DecodePolicy) -> Iterator[Row]:
    """Yield each row below the header; a quoted field may span lines. The delimiter is detected from the header."""

    def bad(number: int, reason: str) -> None:
        policy.bad_line(f"{name}, line {number}", reason)

    numbered = dropwhile(lambda line: not line[1].strip(), split_lines(blocks, bad))
    first, head = next(numbered, (1, b""))
    if not head:
        return
    decoded = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in chain([(first, head)], numbered))
    delimiter = max(",;\t|", key=lambda mark: head.count(mark.encode()))
    if delimiter != ",":
        policy.notes.remarks[f"delimiter of {name}"] = f"columns of {name} are separated by {delimiter!r}"
    # The csv module has one limit for the whole process; it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    reader = csv.reader(decoded, delimiter=delimiter, strict=True)
    names = _header(reader, name)
    line = first + reader.line_num
    while (values := _next_row(reader, bad, line)) is not None:
        if len(values) == len(names):
            yield Row(dict(zip(names, values, strict=True)), line, escaped=True)
        elif values:  # a blank line has no fields; a broken one was counted
            bad(line, f"it has {len(values)} fields, the header has {len(names)}.")
        line = first + reader.line_num


def _header(reader: Any, name: str) -> list[str]:
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise TextError(f"{name}, line 1: it is not CSV ({error}).") from None
    if any(len(column) > LONGEST_NAME for column in names):
        hint = "Add a header with the column names, for example: text"
        raise TextError(f"{name} has no header: it begins with text.", hint=hint)
    repeated = [column for column in names if column and names.count(column) > 1]
    if repeated:
        raise TextError(f"{name} has two columns named {repeated[0]!r}.", hint="Rename one of them.")
    return names


def _next_row(reader: Any, bad: BadLine, line: int) -> list[str] | None:
    """Return the fields of the next row; an empty list for a broken one, None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        bad(line, f"it is not CSV ({error}).")
        return []
