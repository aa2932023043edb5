"""Rows of line-based tables (.jsonl, .csv) and their documents.

A broken line is counted, or ends the reading, according to ``max_bad_lines``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fabella.text.decode_policy import DecodePolicy
from fabella.text.tables.text_column import detect_text_column, peek

LONGEST_LINE = 2**24
"""Bytes of a line at most; a longer one is a bad line, so that memory stays bounded."""

BadLine = Callable[[int, str], None]
"""Report a broken line: (its number from 1, the reason)."""


class Row(dict[str, Any]):
    """Column → value of one line. ``escaped``: bytes that are not UTF-8 are represented as surrogates."""

    def __init__(self, values: Mapping[str, Any], line: int, *, escaped: bool) -> None:
        super().__init__(values)
        self.line = line
        self.escaped = escaped


def split_lines(blocks: Iterator[bytes], bad: BadLine) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, bytes without the line end) of each line; call ``bad`` for one that is too long."""
    number, rest, too_long = 1, b"", False
    for block in blocks:
        *complete, rest = (rest + block).split(b"\n")
        for line in complete:
            if not too_long:
                yield number, line
            number, too_long = number + 1, False
        if too_long:
            rest = b""
        elif len(rest) > LONGEST_LINE:
            bad(number, f"the line is longer than {LONGEST_LINE:,} bytes.")
            rest, too_long = b"", True
    if rest:
        yield number, rest


def row_documents(rows: Iterator[Row], name: str, wanted: str, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row, from the column ``wanted`` or a detected one. A null is an empty document."""
    first, rows = peek(rows)
    if not first:
        return
    column = detect_text_column(wanted, first, name)
    detection = policy.notes.add_detection("text column", column, name) if wanted == "auto" else None
    for row in rows:
        location = f"{name}, line {row.line}"
        if column not in row:
            policy.bad_line(location, f"it has no {column!r}.")
        elif isinstance(value := row[column], str):
            for text in policy.text(
                _raw(value, row.escaped), lambda _raw, _at, location=location: f"{location}, in {column!r}"
            ):
                if detection:
                    detection.documents += 1
                yield text
        elif value is None:
            policy.notes.empty += 1
        else:
            policy.bad_line(location, f"{column!r} is a {type(value).__name__}, not text.")


def _raw(text: str, escaped: bool) -> bytes:
    """Return the bytes that the text was decoded from; a lone surrogate spelled out in JSON stays damage."""
    if escaped:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # both kinds of damage in one line
            pass
    return text.encode("utf-8", "surrogatepass")
