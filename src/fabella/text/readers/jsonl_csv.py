"""Documents of .jsonl and .csv, line by line. A broken line is counted, or ends the reading, by ``max_bad_lines``."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, dropwhile
from typing import Any

from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.text_column import detect_text_column, peek

LONGEST_LINE = 2**24
"""bytes; a longer line is a bad line, so that memory stays bounded"""
LONGEST_NAME = 100
"""characters of a column's name: beyond it, the first line of a .csv is text rather than names"""


class Row(dict[str, Any]):
    """Column → value, with the line it begins on; ``escaped`` if bytes that are no UTF-8 stand in it as surrogates."""

    def __init__(self, values: Mapping[str, Any], line: int, *, escaped: bool) -> None:
        super().__init__(values)
        self.line = line
        self.escaped = escaped


def lines(blocks: Iterator[bytes], bad: Callable[[int, str], None]) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the line end) of each line; ``bad`` is called for one that is too long."""
    number, rest, too_long = 1, b"", False
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
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


def documents(rows: Iterator[Row], name: str, wanted: str, reading: DecodePolicy) -> Iterator[str]:
    """The text of each row, from the column ``wanted`` or a guessed one. No text at all is an empty document."""
    first, rows = peek(rows)
    if not first:
        return
    column = detect_text_column(wanted, first, name)
    guess = reading.notes.guess("text column", column, name) if wanted == "auto" else None
    for row in rows:
        place = f"{name}, line {row.line}"
        if column not in row:
            reading.bad_line(place, f"it has no {column!r}.")
        elif isinstance(value := row[column], str):
            for text in reading.text(_raw(value, row.escaped), lambda raw, at, place=place: f"{place}, in {column!r}"):
                if guess:
                    guess.documents += 1
                yield text
        elif value is None:
            reading.notes.empty += 1
        else:
            reading.bad_line(place, f"{column!r} is a {type(value).__name__}, not text.")


def _raw(text: str, escaped: bool) -> bytes:
    """The bytes that the text was decoded from; a lone surrogate that JSON spelled out stays damage."""
    if escaped:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # both kinds of damage in one line
            pass
    return text.encode("utf-8", "surrogatepass")


def json_rows(blocks: Iterator[bytes], name: str, reading: DecodePolicy) -> Iterator[Row]:
    """The object of each line that is one; blank lines are passed over."""

    def bad(number: int, reason: str) -> None:
        reading.bad_line(f"{name}, line {number}", reason)

    for number, line in lines(blocks, bad):
        if number == 1 and line.lstrip().startswith(b"["):
            fix = "Convert it: jq -c '.[]' OLD > NEW.jsonl."
            raise TextError(f"{name} is one JSON list, not an object a line.", hint=fix)
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
    """A line of .jsonl that is no JSON object; says why."""


def _decoded(line: bytes) -> tuple[str, bool]:
    """The line; damage passes as surrogates (then True), to be judged once it is known whether it is in the text."""
    try:
        return line.decode(), False
    except UnicodeDecodeError:
        return line.decode("utf-8", "surrogateescape"), True


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line, object_pairs_hook=_unique)
    except NotAnObjectError:
        raise
    except RecursionError:
        raise NotAnObjectError("it is nested too deeply.") from None
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise NotAnObjectError(f"it is not JSON ({error}).") from None
    if not isinstance(values, dict):
        raise NotAnObjectError(f"it is a JSON {type(values).__name__}, not an object.")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotAnObjectError(f"it has the key {twice!r} twice.")
    return values


def csv_rows(blocks: Iterator[bytes], name: str, reading: DecodePolicy) -> Iterator[Row]:
    """Each line below the line of names; a quoted field may span lines. The delimiter is guessed from the names."""

    def bad(number: int, reason: str) -> None:
        reading.bad_line(f"{name}, line {number}", reason)

    numbered = dropwhile(lambda line: not line[1].strip(), lines(blocks, bad))
    first, head = next(numbered, (1, b""))
    if not head:
        return
    decoded = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in chain([(first, head)], numbered))
    delimiter = max(",;\t|", key=lambda mark: head.count(mark.encode()))
    if delimiter != ",":
        reading.notes.remarks[f"delimiter of {name}"] = f"columns of {name} are separated by {delimiter!r}"
    # The only limit csv knows is one for the whole process; it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    reader = csv.reader(decoded, delimiter=delimiter, strict=True)
    names = _names(reader, name)
    line = first + reader.line_num
    while (values := _next_row(reader, bad, line)) is not None:
        if len(values) == len(names):
            yield Row(dict(zip(names, values, strict=True)), line, escaped=True)
        elif values:  # a blank line has no fields; a broken one was counted
            bad(line, f"it has {len(values)} fields, the first line names {len(names)}.")
        line = first + reader.line_num


def _names(reader: Any, name: str) -> list[str]:
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise TextError(f"{name}, line 1: it is not CSV ({error}).") from None
    if any(len(column) > LONGEST_NAME for column in names):
        fix = "Put a line of column names above it, for example: text"
        raise TextError(f"{name} begins with text, not with the names of its columns.", hint=fix)
    twice = [column for column in names if column and names.count(column) > 1]
    if twice:
        raise TextError(f"{name} has two columns named {twice[0]!r}.", hint="Rename one of them.")
    return names


def _next_row(reader: Any, bad: Callable[[int, str], None], line: int) -> list[str] | None:
    """The next line's fields; none of them for a line that is broken, None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        bad(line, f"it is not CSV ({error}).")
        return []
