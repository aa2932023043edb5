"""Which column of a table holds the text: the named one, or a guess from names and first rows."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from fabella.errors import TextError, did_you_mean

LIKELY = ("text", "story", "content", "document", "body", "article", "completion", "sentence")
"""Names of text columns, the likeliest first, in lower case."""
LOOK_AT = 100
"""rows looked at to guess, at most"""
LOOK_AT_BYTES = 2**22
"""characters of text looked at, at most"""

AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])


def peek(rows: Iterator[AnyRow]) -> tuple[list[AnyRow], Iterator[AnyRow]]:
    """The first rows, and an iterator over all of them, the first ones included."""
    first: list[AnyRow] = []
    size = 0
    for row in rows:
        first.append(row)
        size += sum(len(value) for value in row.values() if is_text(value))
        if len(first) >= LOOK_AT or size >= LOOK_AT_BYTES:
            break
    return first, chain(first, rows)


def detect_text_column(wanted: str, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The column ``wanted``, or for ``auto`` a guess. Raises TextError with what there is, if it is not there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if wanted != "auto":
        if wanted not in columns:
            raise TextError(f"{name} has no column {wanted!r}.", hint=did_you_mean(wanted, columns))
        return wanted
    lengths = {column: sum(len(row[column]) for row in rows if is_text(row.get(column))) for column in columns}
    texts = [column for column in columns if lengths[column]]
    if not texts:
        raise TextError(f"{name} has no column with text in its first {len(rows)} rows.", hint=_named(columns))
    by_name = {column.lower(): column for column in reversed(texts)}
    for likely in LIKELY:
        if likely in by_name:
            return by_name[likely]
    return max(texts, key=lambda column: lengths[column])


def is_text(value: object) -> bool:
    """Whether a cell may be text: a string, or bytes that are decoded later."""
    return isinstance(value, str | bytes)


def _named(columns: Sequence[str]) -> str:
    return f"Name the column with column=…; there are: {', '.join(columns)}." if columns else ""
