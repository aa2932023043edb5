"""Reader of JSON lines: one object per line, its text column is the document."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.compression import read_blocks
from fabella.text.decode import to_utf8_blocks
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.read_options import ReadOptions
from fabella.text.tables.rows import Row, row_documents, split_lines

SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of each object. Raises TextError for a JSON list and for more broken lines than allowed."""
    name = str(path)
    rows = json_rows(to_utf8_blocks(read_blocks(path), name, policy.notes), name, policy)
    return row_documents(rows, name, options.column, policy)


def json_rows(blocks: Iterator[bytes], name: str, policy: DecodePolicy) -> Iterator[Row]:
    """Yield the JSON object of each line; blank lines are skipped."""

    def bad(number: int, reason: str) -> None:
        policy.bad_line(f"{name}, line {number}", reason)

    for number, line in split_lines(blocks, bad):
        if number == 1 and line.lstrip().startswith(b"["):
            hint = "Convert it: jq -c '.[]' OLD > NEW.jsonl."
            raise TextError(f"{name} is one JSON list, not one object per line.", hint=hint)
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
    """A line of .jsonl is not a JSON object; the message gives the reason."""


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
    if not isinstance(values, dict):
        raise NotAnObjectError(f"it is a JSON {type(values).__name__}, not an object.")
    return values


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise NotAnObjectError(f"it has the key {repeated!r} twice.")
    return values
