"""Reader of JSON: one object or string per line, a list, objects over several lines, or one object with all rows."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from fabella.text.boundaries.boilerplate import read_head
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.tables.json_values import HEAD_BYTES, is_lines, read_values, rows_of_object
from fabella.text.tables.rows import Row, row_documents, split_lines

SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})

STRING_COLUMN = "text"
"""Column of a string that stands in place of an object."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each object. Raises TextError for damage, and for more broken lines than allowed."""
    name = str(path)
    rows = json_rows(read_utf8(path, options, policy.notes), name, policy)
    return row_documents(rows, name, options, policy)


def json_rows(blocks: Iterator[bytes], name: str, policy: DecodePolicy) -> Iterator[Row]:
    """Yield the rows of a JSON file, whatever its form; blank lines are skipped."""
    head, blocks = read_head(blocks, HEAD_BYTES)
    start = head[: head.rfind(b"\n") + 1] or head
    blocks = chain([head], blocks)
    return _rows_of_lines(blocks, name, policy) if is_lines(start) else _rows_of_values(blocks, name, policy)


def _rows_of_values(blocks: Iterator[bytes], name: str, policy: DecodePolicy) -> Iterator[Row]:
    """Yield the rows of JSON values; those of a single object if it holds them."""
    values = read_values(blocks, name)
    first = next(values, None)
    second = next(values, None)
    if first and second is None and isinstance(first[1], dict):
        rows, how = rows_of_object(first[1])
        if rows:
            policy.notes.remarks[f"form of {name}"] = f"rows of {name} are read from {how} of one object"
            line, first = first[0], None
            values = iter([(line, row) for row in rows])
    for line, value in chain([item for item in (first, second) if item], values):
        if isinstance(value, str):
            value = {STRING_COLUMN: value}
        if isinstance(value, dict):
            yield Row(value, line, escaped=True)
        else:
            policy.bad_line(f"{name}, line {line}", f"it is a JSON {type(value).__name__}, not an object or a string.")


def _rows_of_lines(blocks: Iterator[bytes], name: str, policy: DecodePolicy) -> Iterator[Row]:
    def bad(number: int, reason: str) -> None:
        policy.bad_line(f"{name}, line {number}", reason)

    for number, line in split_lines(blocks, bad):
        if not line.strip():
            continue
        try:
            text, escaped = _decoded(line)
            values = _object(text)
        except NotAnObjectError as error:
            bad(number, str(error))
        else:
            yield Row(values, number, escaped=escaped)


class NotAnObjectError(ValueError):
    """A line of .jsonl is neither a JSON object nor a string; the message gives the reason."""


def _decoded(line: bytes) -> tuple[str, bool]:
    """Decode a line. Invalid bytes become surrogates (then True): they matter only if they are in the text column."""
    try:
        return line.decode(), False
    except UnicodeDecodeError:
        return line.decode("utf-8", "surrogateescape"), True


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line, object_pairs_hook=_refuse_duplicates)
    except NotAnObjectError:
        raise
    except RecursionError:
        raise NotAnObjectError("it is nested too deeply.") from None
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise NotAnObjectError(f"it is not JSON ({error}).") from None
    if isinstance(values, str):
        return {STRING_COLUMN: values}
    if not isinstance(values, dict):
        raise NotAnObjectError(f"it is a JSON {type(values).__name__}, not an object or a string.")
    return values


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise NotAnObjectError(f"it has the key {repeated!r} twice.")
    return values
