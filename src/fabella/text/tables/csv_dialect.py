"""The dialect of a CSV file: separator, quoting and header, chosen so that the rows agree.

Each dialect that occurs is tried on the beginning of the file. The one under which most rows have the same number of
fields is taken: a comma within the text of some rows, or a quotation mark that means nothing, makes rows differ
(van den Burg et al. 2019, arXiv 1811.11242).
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fabella.text.tables.text_column import LIKELY

SEPARATORS = ",;\t|"
NO_SEPARATOR = "\x1f"
"""Stands for a file of one column: a character that text does not contain."""
SAMPLE_BYTES = 2**17
"""Bytes at the beginning of a file on which the dialects are tried."""
AGREEMENT = 0.9
"""Share of rows with the same number of fields, 0 to 1, from which on a separator is one."""
NAMED_AGREEMENT = 0.5
"""The same under a header with a usual name of a text column, such as ``text``."""
STEPS = 50
"""Shares of agreeing rows are compared in steps of 1 / STEPS, so that one broken row does not outweigh other signs."""
RAW_QUOTES_DOUBT = 0.25
"""Share of rows, 0 to 1, by which more must agree if quotation marks mean nothing, except between tabs."""
LONGEST_NAME = 100
"""Characters of a column name at most."""
WORDS_OF_NAME = 5
"""Words of a column name at most."""
MOST_PREAMBLE = 10
"""Lines before the header at most, such as a title."""
EXCEL_LINE = re.compile(r'"?sep=(.)"?\s*')
"""First line by which Excel knows the separator."""
ESCAPED = re.compile(r'\\(["\\])')
NUMBER = re.compile(r"[-+]?[\d.,  ]*\d[\d.,%]*(?:[eE][-+]?\d+)?|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}.*")
SENTENCE_END = re.compile(r"[.!?…。\uff01\uff1f][\"'”»)\u2019]*\s*$")


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How the rows of a CSV file are written."""

    separator: str
    quoting: str = "double"
    """double (a quotation mark in a quoted field is written twice), backslash (it follows a backslash), or none"""
    excel_line: bool = False
    """Whether the first line is Excel's ``sep=;``"""
    preamble: int = 0
    """Lines before the header"""
    header: bool = True
    """Whether the first row has the names of the columns"""
    row_names: bool = False
    """Whether the rows begin with a name that the header lacks, as R writes them"""

    def reader(self, lines: Iterator[str]) -> Any:
        """Return a strict ``csv.reader`` of the lines."""
        if self.quoting == "none":
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)
        if self.quoting == "backslash":
            lines = (ESCAPED.sub(lambda match: '""' if match[1] == '"' else "\\", line) for line in lines)
        return csv.reader(lines, delimiter=self.separator, strict=True)

    def description(self) -> str:
        """Return what differs from ``a,"b"`` with a header; empty if nothing does."""
        named = {"\t": "tabs", NO_SEPARATOR: ""}
        parts = [f"separated by {named.get(self.separator, repr(self.separator))}"]
        parts = parts if self.separator not in ("," + NO_SEPARATOR) else []
        parts += {
            "double": [],
            "backslash": ["quotation marks follow a backslash"],
            "none": ["quotation marks are text"],
        }[self.quoting]
        if self.preamble:
            parts.append(f"{self.preamble} line{'s' * (self.preamble > 1)} before the header left out")
        if not self.header:
            parts.append("no header, so the columns are named 1, 2, …")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A dialect tried on a sample."""

    dialect: CsvDialect
    rows: list[list[str]]
    fields: int
    """Fields of most rows"""
    agreement: float
    """Share of rows that have them, 0 to 1"""

    @property
    def plausible(self) -> bool:
        """Whether enough rows agree: most of them, or half of them under a header that names a text column."""
        if self.fields < 2 or _usual_names(self.rows[0]) == len(self.rows[0]) == 1:
            return False
        header = next((row for row in self.rows[: MOST_PREAMBLE + 1] if len(row) == self.fields), [])
        named = _usual_names(header) > 0
        return self.agreement >= (NAMED_AGREEMENT if named else AGREEMENT)

    @property
    def leftovers(self) -> float:
        """Share of cells that still have quotation marks around them, or another separator within, 0 to 1."""
        cells = [cell for row in self.rows for cell in row if cell]
        others = set(";\t|") - {self.dialect.separator}
        odd = sum(
            (len(cell) > 1 and cell[0] == cell[-1] == '"') or (bool(others & set(cell)) and not NUMBER.fullmatch(cell))
            for cell in cells
        )
        return odd / max(len(cells), 1)


def _usual_names(row: Sequence[str]) -> int:
    """Return how many cells are usual names of a text column."""
    return sum(cell.strip().lower() in LIKELY for cell in row)


def detect_dialect(lines: Sequence[str], *, complete: bool, separator: str = "") -> CsvDialect:
    """Return the dialect of a file from its first lines, each with its line end.

    ``complete``: the lines are the whole file. ``separator``: that of the columns, if the user has given it.
    """
    excel = EXCEL_LINE.fullmatch(lines[0]) if lines else None
    body = list(lines[1:] if excel else lines)
    separators = separator or (excel[1] if excel else SEPARATORS)
    trials = [
        _tried(CsvDialect(sign, quoting, excel_line=bool(excel)), body, complete=complete)
        for sign in (*separators, NO_SEPARATOR)
        for quoting in ("double", "backslash", "none")
    ]
    good = [trial for trial in trials if trial.plausible] if not (separator or excel) else trials[:3]
    # Without a separator that fits, a file has one column.
    best = min(good or trials[-3:], key=_rank)
    return _with_header(best)


def _tried(dialect: CsvDialect, lines: Sequence[str], *, complete: bool) -> _Trial:
    rows: list[list[str]] = []
    broken = 0
    reader = dialect.reader(iter(lines))
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            # A quoted field that the sample cuts is no damage.
            broken += complete or reader.line_num < len(lines)
            continue
        if row is None:
            break
        if row:
            rows.append(row)
    counts = Counter(map(len, rows))
    # Of equally frequent numbers, the larger one: a title and a header, and one row.
    fields, number = max(counts.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    return _Trial(dialect, rows, fields, number / max(len(rows) + broken, 1))


def _rank(trial: _Trial) -> tuple[float, float, int, int]:
    quotings = ("double", "backslash", "none")
    # Commas around raw quotation marks are rare; quoted fields of which some are broken are not.
    doubt = RAW_QUOTES_DOUBT if trial.dialect.quoting == "none" and trial.dialect.separator in ",;|" else 0.0
    return (
        -round(STEPS * (trial.agreement - doubt)),
        trial.leftovers,
        quotings.index(trial.dialect.quoting),
        -trial.fields,
    )


def _with_header(trial: _Trial) -> CsvDialect:
    """Return the dialect with what its first rows are: lines before the header, a header, or data."""
    dialect, rows = trial.dialect, trial.rows
    preamble = 0
    if trial.fields > 1:
        while preamble < min(MOST_PREAMBLE, len(rows) - 1) and _is_title(rows[preamble], rows[preamble + 1 :]):
            preamble += 1
    first, data = (rows[preamble], rows[preamble + 1 :]) if rows else ([], [])
    row_names = len(first) > 1 and len(first) == trial.fields - 1
    header = row_names or not data or _is_header(first, data)
    return CsvDialect(
        dialect.separator, dialect.quoting, dialect.excel_line, preamble if header else 0, header, row_names
    )


def _is_title(row: Sequence[str], following: Sequence[Sequence[str]]) -> bool:
    """Return whether a row above the header is a title: one cell, or one among empty ones, as spreadsheets write it.

    A header may have empty names, too: it is no title if its one name is that of a text column.
    """
    if len(row) < 3 or sum(bool(cell.strip()) for cell in row) > 1:
        return len(row) == 1
    return not _usual_names(row) and any(sum(map(bool, other)) > 1 for other in following[:MOST_PREAMBLE])


def _is_header(first: Sequence[str], data: Sequence[list[str]]) -> bool:
    """Return True for names of columns: short, not numbers, and not among the values below them."""
    for column, name in enumerate(first):
        values = {row[column] for row in data if len(row) > column}
        sentence = SENTENCE_END.search(name) and len(name.split()) > 1
        if NUMBER.fullmatch(name) or len(name) > LONGEST_NAME or len(name.split()) > WORDS_OF_NAME or sentence:
            return False
        if name and name in values and list(first) not in data:  # a label, such as "positive"
            return False
    return True
