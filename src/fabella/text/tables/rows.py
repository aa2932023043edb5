"""Rows of tables (.jsonl, .csv) and their documents.

A broken line is counted, or ends the reading, according to ``max_bad_lines``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fabella.storage import format_bytes
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.tables.text_column import NoTextError, TextColumn, find_text, peek
from fabella.text.tables.threads import MESSAGES, Thread, find_thread

LONGEST_LINE = 2**26
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
    number, too_long = 1, False
    pieces: list[bytes] = []  # of a line that is not complete
    size = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        pieces.append(first)
        size += len(first)
        if others:
            *complete, last = others
            if not too_long:
                yield number, b"".join(pieces)
            for line in complete:
                number += 1
                yield number, line
            number, too_long, pieces, size = number + 1, False, [last], len(last)
        if too_long:
            pieces = []
        elif size > LONGEST_LINE:
            bad(number, f"the line is longer than {format_bytes(LONGEST_LINE)}. Split it into several rows.")
            pieces, too_long = [], True
    if not too_long and (line := b"".join(pieces)):
        yield number, line


def row_documents(rows: Iterator[Row], name: str, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each row, from the column that ``options`` names or a detected one. Null is no document."""
    first, rows = peek(rows)
    if not first:
        return
    thread = find_thread(first) if options.column == "auto" else None
    if thread:
        first, rows = peek(_conversations(rows, thread, name, policy))
    column = find_text(options.column, first, name, policy.writer)
    detection = report_column(column, name, policy, detected=options.column == "auto")
    for row in rows:
        location = f"{name}, line {row.line}"
        try:
            value = column.text(row)
        except NoTextError as error:
            policy.bad_line(location, str(error))
            continue
        if value is None:
            policy.notes.empty += 1
            continue
        raw = value if isinstance(value, bytes) else _raw(value, row.escaped)
        where = f"{location}, in {', '.join(map(repr, column.columns))}"
        for text in policy.text(raw, lambda _raw, _at, where=where: where, written=True):
            if detection:
                detection.documents += 1
            yield text


def _conversations(rows: Iterator[Row], thread: Thread, name: str, policy: DecodePolicy) -> Iterator[Row]:
    """Yield one row with the messages of each conversation, at the line of its first message; note what is read."""
    read = total = 0
    for messages, count in thread.conversations(rows):
        read, total = read + len(messages), total + count
        policy.notes.remarks[f"conversations of {name}"] = thread.description(name, read, total)
        if messages:
            escaped = any(row.escaped for row in messages)
            yield Row({MESSAGES: thread.messages(messages)}, messages[0].line, escaped=escaped)


def report_column(column: TextColumn, name: str, policy: DecodePolicy, *, detected: bool) -> Any:
    """Note the text column, and other columns of text; return the counts of the detection, None if it was given."""
    if not detected:
        return None
    if message := column.left_out_message(name):
        policy.notes.remarks[f"columns of {name}"] = message
    return policy.notes.add_detection("text column", column.description, name)


def _raw(text: str, escaped: bool) -> bytes:
    """Return the bytes that the text was decoded from; a lone surrogate spelled out in JSON stays damage."""
    if escaped:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # both kinds of damage in one line
            pass
    return text.encode("utf-8", "surrogatepass")
