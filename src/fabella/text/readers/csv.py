"""Reader of CSV: one row per document; separator, quoting and header are detected."""

import csv
from collections.abc import Iterator
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.tables.csv_dialect import SAMPLE_BYTES, CsvDialect, detect_dialect
from fabella.text.tables.rows import LONGEST_LINE, BadLine, Row, row_documents, split_lines

SUFFIXES = frozenset({".csv", ".tsv"})
ROW_NAME = "row"
"""Column of the names of rows, which R writes without a name in the header."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row. Raises TextError for more broken rows than allowed."""
    name = str(path)
    separator = options.separator if len(options.separator) == 1 else ""
    rows = csv_rows(read_utf8(path, options, policy.notes), name, policy, separator)
    return row_documents(rows, name, options, policy)


def csv_rows(blocks: Iterator[bytes], name: str, policy: DecodePolicy, separator: str = "") -> Iterator[Row]:
    """Yield each row below the header; a quoted field may span lines.

    ``separator``: of the columns; empty for the detected one. Without a header the columns are named 1, 2, ….
    """

    def bad(number: int, reason: str) -> None:
        policy.bad_line(f"{name}, line {number}", reason)

    numbered = dropwhile(lambda line: not line[1].strip(), split_lines(blocks, bad))
    first, sample = _sample(numbered)
    if not sample:
        return
    # The csv module has one limit for the whole process; it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    following = next(numbered, None)
    dialect = detect_dialect(sample, complete=following is None, separator=separator)
    if description := dialect.description():
        policy.notes.add_detection("form", description, name, "" if separator else "--separator sets the separator")
    rest = (_decoded(line) for _, line in chain([following] if following else [], numbered))
    reader = dialect.reader(chain(sample[dialect.excel_line :], rest))
    first += dialect.excel_line
    names = _names(reader, dialect, name)
    line = first + reader.line_num
    while (values := _next_row(reader, bad, line)) is not None:
        names = names or [str(number) for number in range(1, len(values) + 1)]
        if len(values) == len(names):
            yield Row(dict(zip(names, values, strict=True)), line, escaped=True)
        elif values:  # a blank line has no fields; a broken one was counted
            others = "header has" if dialect.header else "rows before it have"
            bad(line, f"it has {len(values)} fields, the {others} {len(names)}.")
        line = first + reader.line_num


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape") + "\n"


def _sample(numbered: Iterator[tuple[int, bytes]]) -> tuple[int, list[str]]:
    """Return the number of the first line, and the lines on which the dialects are tried."""
    first, size = 0, 0
    lines: list[str] = []
    for number, line in numbered:
        first = first or number
        lines.append(_decoded(line))
        size += len(line)
        if size >= SAMPLE_BYTES:
            break
    return first, lines


def _names(reader: Any, dialect: CsvDialect, name: str) -> list[str]:
    """Return the names of the columns, and leave the reader at the first row; empty without a header."""
    if not dialect.header:
        return []
    skipped = 0
    try:
        while (names := next(reader, [])) == [] or skipped < dialect.preamble:
            if not names and reader.line_num == 0:
                break
            skipped += bool(names)
    except csv.Error as error:
        raise TextError(f"{name}, line {reader.line_num}: it is not CSV ({error}).") from None
    names = [ROW_NAME, *names] if dialect.row_names else names
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
