"""Text column detection: the named column, or a guess from the column names and the first rows."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from fabella.errors import TextError, did_you_mean

LIKELY = ("text", "story", "content", "document", "body", "article", "completion", "sentence")
"""Usual names of text columns in lower case, the most likely first."""
PEEK_ROWS = 100
"""Rows inspected at most."""
PEEK_CHARACTERS = 2**22
"""Characters of text inspected at most."""

AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])


def peek(rows: Iterator[AnyRow]) -> tuple[list[AnyRow], Iterator[AnyRow]]:
    """Return the first rows, and an iterator over all rows including those."""
    first: list[AnyRow] = []
    size = 0
    for row in rows:
        first.append(row)
        size += sum(len(value) for value in row.values() if is_text(value))
        if len(first) >= PEEK_ROWS or size >= PEEK_CHARACTERS:
            break
    return first, chain(first, rows)


def detect_text_column(wanted: str, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the column ``wanted``, or a detected one for ``auto``. Raises TextError if there is no such column."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if wanted != "auto":
        if wanted not in columns:
            raise TextError(f"{name} has no column {wanted!r}.", hint=did_you_mean(wanted, columns))
        return wanted
    lengths = {column: sum(len(row[column]) for row in rows if is_text(row.get(column))) for column in columns}
    candidates = [column for column in columns if lengths[column]]
    if not candidates:
        raise TextError(f"{name} has no text column in its first {len(rows)} rows.", hint=_column_hint(columns))
    by_name = {column.lower(): column for column in reversed(candidates)}
    for likely in LIKELY:
        if likely in by_name:
            return by_name[likely]
    return max(candidates, key=lambda column: lengths[column])


def is_text(value: object) -> bool:
    """Return whether a cell may be text: a string, or bytes that are decoded later."""
    return isinstance(value, str | bytes)


def _column_hint(columns: Sequence[str]) -> str:
    return f"Set the column: --column NAME. Its columns: {', '.join(columns)}." if columns else ""
