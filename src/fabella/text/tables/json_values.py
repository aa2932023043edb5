"""JSON that is not one object a line: a list, objects over several lines, or one object that holds all rows."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fabella.errors import TextError

LONGEST_VALUE = 2**26
"""Bytes of one JSON value at most, so that memory stays bounded."""
DECODER = json.JSONDecoder()
HEAD_BYTES = 2**16
"""Bytes inspected to see the form of a file."""


def is_lines(head: bytes) -> bool:
    """Return True if a file has one JSON value a line; ``head`` is its beginning, complete lines or all of it."""
    lines = [line.strip() for line in head.split(b"\n") if line.strip()][:3]
    if not lines or lines[0][:1] not in b"[{":
        return True
    if _is_json(lines[0]):
        single = len(lines) == 1
        value = json.loads(lines[0].decode("utf-8", "replace")) if single else {}
        return lines[0][:1] == b"{" and not (single and rows_of_object(value)[0])
    # One broken line among lines of objects, or a value over several lines.
    return len(lines) > 1 and any(line[:1] == b"{" and _is_json(line) for line in lines[1:])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def read_values(blocks: Iterator[bytes], name: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of every JSON value of a file, or of every item of a list. Raises TextError for damage.

    Bytes that are not UTF-8 become surrogates.
    """
    text, at, line, rest = "", 0, 1, b""
    in_list, first, ended = False, True, False
    while True:
        end = _skip(text, at)
        line += text.count("\n", at, end)
        at = end
        if first and text[at : at + 1] == "[":
            in_list, first, at = True, False, at + 1
            continue
        if (in_list and text[at : at + 1] == "]") or (ended and at == len(text)):
            return
        found = _value(text, at, f"{name}, line {line}", final=ended) if at < len(text) else None
        if found:
            first = False
            yield line, found[0]
            line += text.count("\n", at, found[1])
            at = found[1]
            continue
        block = next(blocks, None)
        ended = block is None
        raw = rest + (block or b"")
        cut = len(raw) if ended else _complete(raw)
        text, at, rest = text[at:] + raw[:cut].decode("utf-8", "surrogateescape"), 0, raw[cut:]


def _value(text: str, at: int, location: str, *, final: bool) -> tuple[Any, int] | None:
    """Return the value at a position and where it ends; None if more text is needed. Raises TextError."""
    try:
        value, end = DECODER.raw_decode(text, at)
    except RecursionError:
        raise TextError(f"{location}: it is nested too deeply.") from None
    except ValueError as error:
        if not final and len(text) - at <= LONGEST_VALUE:
            return None
        raise TextError(
            f"{location}: it is not JSON ({error}).", hint="Repair it, or write one object per line (JSON lines)."
        ) from None
    return (value, end) if final or end < len(text) else None  # a number may continue in the next block


def _skip(text: str, at: int) -> int:
    """Return the position after white space and commas."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _complete(raw: bytes) -> int:
    """Return the number of bytes before a character that is cut at the end."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if length > back else len(raw)
        if byte < 0x80:
            break
    return len(raw)


def rows_of_object(value: Mapping[str, Any]) -> tuple[list[Any], str]:
    """Return the rows that one object holds, and how: a list under a key, or columns; empty if it is one row.

    Columns are lists of equal length, or objects with equal keys, as pandas writes them.
    """
    lists = {key: item for key, item in value.items() if isinstance(item, list) and len(item) > 1}
    if value and len(lists) == len(value) and len({len(item) for item in lists.values()}) == 1 and len(lists) > 1:
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)], "columns"
    inner = [item for item in value.values() if isinstance(item, dict)]
    if len(inner) == len(value) > 0 and inner[0] and all(item.keys() == inner[0].keys() for item in inner):
        keys = list(inner[0])
        if all(key.isdigit() for key in keys):
            return [{column: value[column][key] for column in value} for key in keys], "columns"
    tables = {key: item for key, item in lists.items() if all(isinstance(row, dict | str) for row in item)}
    if len(tables) == 1 and not any(key in value for key in ("messages", "conversations", "conversation")):
        ((key, rows),) = tables.items()
        return rows, f"the list {key!r}"
    return [], ""
