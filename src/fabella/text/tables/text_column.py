"""Where the text of a row is: a column, a path into nested columns, a template of several, or a conversation.

text                       a column
doc.body, turns.content    a path into objects and lists; the texts of a list are joined by line ends
"{title}\\n{text}"          a template
messages                   a conversation, written with a chat template
auto                       detected from the names of the columns and the first rows
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from fabella.errors import TextError, did_you_mean
from fabella.text.chat.template import ConversationWriter, Message, default_writer
from fabella.text.chat.template_errors import RefusedConversationError
from fabella.text.tables.conversation import (
    ANSWER_COLUMNS,
    CHOSEN,
    REJECTED,
    TOOLS,
    conversation,
    has_tools,
    messages_of_pair,
    objects_of,
    pair_of,
    part_without_text,
    strings_of,
    tools_of,
)

LIKELY = ("text", "story", "content", "document", "body", "article", "completion", "sentence")
"""Usual names of text columns in lower case, the most likely first."""
PEEK_ROWS = 100
"""Rows inspected at most."""
PEEK_CHARACTERS = 2**22
"""Characters of text inspected at most."""
FIELD = re.compile(r"\{([^{}]+)\}")
NO_TEXT = re.compile(
    r"[0-9a-f-]{16,}|[\d\W_]+|\w+://\S+|\S+@\S+\.\w+|\S*[/\\]\S+|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}.*|"
    r"\d{4}-\d\d-\d\dT.*|\S*\d\S*",
    re.IGNORECASE,
)
"""Ids, hashes, numbers, addresses, paths and dates."""
WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")
PROSE_SHARE = 0.5
"""Share of the cells of a column, 0 to 1, that read as text."""
REPEATED = 0.05
"""Share of different cells in a column, 0 to 1, below which they are labels."""
NESTED_FACTOR = 2
"""Characters of nested text, as a multiple of those of a text column without a usual name, that make a guess doubtful.
"""
WORTH_NAMING = 0.05
"""Characters of another column as a share of those of the text column, 0 to 1, from which on it is reported."""

Cell = str | bytes | None
AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])


class NoTextError(ValueError):
    """A row has no text where it should be; the message says what is there instead."""


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Where the text of each row is."""

    description: str
    """For the user: ``story``, ``conversation in messages``"""
    columns: tuple[str, ...]
    """Columns of the table that are read"""
    text: Callable[[Mapping[str, Any]], Cell]
    """Row → its text, None if it is missing; raises NoTextError"""
    left_out: tuple[str, ...] = ()
    """Other columns that read as text"""

    def left_out_message(self, name: str) -> str:
        """Return a sentence about the columns of ``name`` that are left out, and how to read them; or empty."""
        if not self.left_out:
            return ""
        template = "\\n".join(f"{{{column}}}" for column in (*self.left_out, *self.columns))
        columns = ", ".join(self.left_out)
        return f"columns of {name} left out: {columns}; --column '{template}' reads them, too"


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


def is_text(value: object) -> bool:
    """Return whether a cell may be text: a string, or bytes that are decoded later."""
    return isinstance(value, str | bytes)


# ---------------------------------------------------------------- a column that the user names


def find_text(
    wanted: str, rows: Sequence[Mapping[str, Any]], name: str, writer: ConversationWriter | None = None
) -> TextColumn:
    """Return where the text is: ``wanted`` as the user gave it, or detected for ``auto`` from the first rows.

    Raises TextError if there is no such column, or none that reads as text.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = writer or default_writer()
    if wanted == "auto":
        return _detect(columns, rows, name, writer)
    if wanted in columns:
        return _cell_of(wanted, wanted, rows, writer)
    if fields := FIELD.findall(wanted):
        for field in fields:
            _require_column(field.partition(".")[0] if field not in columns else field, columns, name)
        return _template(wanted, tuple(fields), columns, rows, writer)
    first, _, rest = wanted.partition(".")
    if rest and first in columns:
        path = tuple(wanted.split("."))
        if not any(_values(row, path) for row in rows):
            keys = sorted({key for row in rows for key in _paths(row.get(first), first)})
            raise TextError(f"{name} has nothing at {wanted!r}.", hint=did_you_mean(wanted, keys))
        return TextColumn(wanted, (first,), lambda row: _joined(_values(row, path), wanted, writer))
    parts = [part.strip() for part in wanted.split(",")]
    if len(parts) > 1 and all(part in columns for part in parts):
        template = "\\n".join(f"{{{part}}}" for part in parts)
        raise TextError(
            f"{name} has no column {wanted!r}.", hint=f"Join columns with a template: --column '{template}'."
        )
    _require_column(wanted, columns, name)
    raise AssertionError("a column that is missing was reported")


def _require_column(wanted: str, columns: Sequence[str], name: str) -> None:
    if wanted not in columns:
        raise TextError(f"{name} has no column {wanted!r}.", hint=did_you_mean(wanted, columns))


def _cell_of(
    column: str, description: str, rows: Sequence[Mapping[str, Any]], writer: ConversationWriter
) -> TextColumn:
    """Return the text of one column; with that of the tools, if the column has conversations."""
    with_tools = column != TOOLS and has_tools(rows) and any(conversation(row.get(column)) for row in rows)

    has_lists = _has_lists(rows, column)

    def text(row: Mapping[str, Any]) -> Cell:
        tools, cell = _tools(row) if with_tools else (), _required(row, column)
        return _as_text((has_lists and strings_of(cell)) or cell, column, writer, tools)

    description = f"{description}, the lines of a list" if has_lists else description
    return TextColumn(description, (column, TOOLS) if with_tools else (column,), text)


def _has_lists(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Return whether every cell of a column with text has it in a list, such as ``["Mix.", "Bake."]``."""
    cells = [row[column] for row in rows if is_text(row.get(column)) and row[column].strip() not in (b"", "", "[]")]
    return bool(cells) and all(map(strings_of, cells))


def _tools(row: Mapping[str, Any]) -> Sequence[Any]:
    tools = tools_of(row.get(TOOLS))
    if tools is None:
        raise NoTextError(f"{TOOLS!r} is not a list.")
    return tools


def _required(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise NoTextError(f"it has no {column!r}.")
    return row[column]


def _template(
    wanted: str,
    fields: tuple[str, ...],
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    writer: ConversationWriter,
) -> TextColumn:
    """Return the text of a template such as ``{title}\\n{text}``; ``\\n`` may be typed as two characters."""
    lists = {field for field in fields if _has_lists(rows, field)}
    pieces = FIELD.split(wanted.replace("\\n", "\n").replace("\\t", "\t"))  # text and fields in turn
    pieces[::2] = [string_of(writer.escaped(piece)) for piece in pieces[::2]]
    answer_fields = {field for field in fields if field.rpartition(".")[2].lower() in ANSWER_COLUMNS}

    def text(row: Mapping[str, Any]) -> Cell:
        if lists:
            row = {**row, **{field: strings_of(row.get(field)) or row.get(field) for field in lists}}
        values = {field: _field(row, field, columns, writer) for field in fields}
        if all(value is None for value in values.values()):
            return None
        texts = {
            field: writer.answer(value or "") if field in answer_fields else value or ""
            for field, value in values.items()
        }
        return "".join(texts[piece] if number % 2 else piece for number, piece in enumerate(pieces)).strip("\n")

    top = tuple(dict.fromkeys(field if field in columns else field.partition(".")[0] for field in fields))
    return TextColumn(wanted.replace("\n", "\\n"), top, text)


def _field(row: Mapping[str, Any], field: str, columns: Sequence[str], writer: ConversationWriter) -> str | None:
    value = row.get(field)
    if isinstance(value, bool | int | float):
        return str(value)
    nested = field not in columns
    cell = _joined(_values(row, tuple(field.split("."))), field, writer) if nested else _as_text(value, field, writer)
    return cell if cell is None else string_of(cell)


def string_of(cell: str | bytes) -> str:
    """Return a cell as a string; bytes that are not UTF-8 become surrogates."""
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def _values(value: Any, path: Sequence[str]) -> list[Any]:
    """Return the values at a path; a list on the way gives those of all its items."""
    values = [value]
    for key in path:
        flat = [item for one in values for item in (one if isinstance(one, list | tuple) else [one])]
        values = [item[key] for item in flat if isinstance(item, Mapping) and item.get(key) is not None]
    return values


def _joined(values: list[Any], where: str, writer: ConversationWriter) -> Cell:
    texts = [_as_text(value, where, writer) for value in values]
    present = [text for text in texts if text]
    if len(present) <= 1:
        return present[0] if present else None
    return "\n".join(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text for text in present)


def _paths(value: Any, prefix: str) -> Iterator[str]:
    """Yield the dotted paths of all strings below a value."""
    return (path for path, _ in _placed_strings(value, prefix))


def _placed_strings(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, string) of all strings below a value, of lists those of the first items."""
    if isinstance(value, str):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _placed_strings(inner, f"{prefix}.{key}")
    elif isinstance(value, list):
        for inner in value[:10]:
            yield from _placed_strings(inner, prefix)


def _as_text(value: Any, where: str, writer: ConversationWriter, tools: Sequence[Any] = ()) -> Cell:
    """Return a cell as text: a string, a conversation with its tools, or the lines of a list of strings."""
    if value is None:
        return None
    items = objects_of(value)
    if messages := conversation(items):
        if other := part_without_text(items):
            raise NoTextError(f"{other}; only text is read.")
        return _written(messages, writer, tools)
    if is_text(value):
        return writer.escaped(value)
    if isinstance(value, list | tuple) and all(is_text(item) for item in value):
        return _joined(list(value), where, writer)
    paths = sorted(set(_paths(value, where)))
    ways = f" Its text is at: {', '.join(paths[:8])}." if paths else ""
    raise NoTextError(f"{where!r} is a {type(value).__name__}, not text.{ways}")


def _written(messages: Sequence[Message], writer: ConversationWriter, tools: Sequence[Any] = ()) -> str:
    try:
        return writer.write(messages, tools)
    except RefusedConversationError as error:
        raise NoTextError(str(error)) from error


# ---------------------------------------------------------------- detection


def _detect(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str, writer: ConversationWriter
) -> TextColumn:
    columns = [column for column in columns if column.lower() != REJECTED or CHOSEN not in map(str.lower, columns)]
    chats = {column: size for column in columns if (size := _conversation_characters(rows, column))}
    prose = {c: _characters(rows, c) for c in columns if c not in chats and _reads_as_text(rows, c)}
    named = next((c for likely in LIKELY for c in columns if c.lower() == likely and _has_text(rows, c)), "")
    pair = pair_of(columns)
    is_pair = pair and named.lower() not in LIKELY[:6] and any(messages_of_pair(row, pair) for row in rows)
    if is_pair and (not chats or chats.keys() & set(pair)):
        return _pair(pair, rows, prose, writer)
    if chats and max(chats.values()) > prose.get(named, 0):
        column = max(chats, key=lambda key: chats[key])
        others = _worth_naming(rows, prose, (column,), chats[column])
        description = f"{column}, a conversation written with the chat template {writer.template.name!r}"
        return dataclasses.replace(_cell_of(column, description, rows, writer), left_out=others)
    column = named or (max(prose, key=lambda key: prose[key]) if prose else _by_name_only(columns, rows))
    if not column:
        raise _no_text_column(columns, rows, name)
    size = prose.get(column, _characters(rows, column))
    nested = _nested_text(rows, [other for other in columns if other not in chats])
    path = max(nested, key=lambda key: nested[key], default="")
    if path and not named and nested[path] > NESTED_FACTOR * size:
        raise TextError(
            f"{name} has more text in {path} than in {column}, its longest column of text.",
            hint=f"Set the text: --column {path}, --column '{{{column}}}\\n{{{path}}}', or --column {column}.",
        )
    others = _worth_naming(rows, prose | nested, (column,), size)
    return dataclasses.replace(_cell_of(column, column, rows, writer), left_out=others)


def _by_name_only(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a column with the usual name of a text column whose strings are empty or signs only; else empty."""
    named = (column for likely in LIKELY for column in columns if column.lower() == likely)
    return next((column for column in named if any(is_text(row.get(column)) for row in rows)), "")


def _pair(
    columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]], prose: Mapping[str, int], writer: ConversationWriter
) -> TextColumn:
    """Return the text of a request and its answer in columns of their own."""
    with_tools = has_tools(rows)

    def text(row: Mapping[str, Any]) -> Cell:
        messages = messages_of_pair(row, columns)
        for column in columns:
            if other := part_without_text(objects_of(row.get(column))):
                raise NoTextError(f"{other} in {column!r}; only text is read.")
        return _written(messages, writer, _tools(row) if with_tools else ()) if messages else None

    size = sum(prose.get(column, 0) for column in columns)
    return TextColumn(
        f"{', '.join(columns)}, a conversation written with the chat template {writer.template.name!r}",
        (*columns, TOOLS) if with_tools else columns,
        text,
        _worth_naming(rows, prose, columns, size),
    )


def _worth_naming(
    rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], chosen: Sequence[str], size: int
) -> tuple[str, ...]:
    """Return other places of text, with their ``sizes`` in characters, whose text is not in that of ``chosen``, too."""
    large = [place for place in sizes if place not in chosen and sizes[place] >= WORTH_NAMING * size]
    return tuple(place for place in large if any(_adds_text(row, place, chosen) for row in rows))


def _adds_text(row: Mapping[str, Any], place: str, chosen: Sequence[str]) -> bool:
    """Return whether a row has text at ``place`` that is not in its ``chosen`` columns, too."""
    texts = _text_strings(row.get(column) for column in chosen)
    texts += [message.content for column in chosen for message in conversation(row.get(column))]
    read = "\n".join(texts)
    return any(text.strip() not in read for text in _text_strings(_at(row, place)))


def _at(row: Mapping[str, Any], place: str) -> list[Any]:
    return [row[place]] if place in row else _values(row, place.split("."))


def _nested_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, int]:
    """Return the characters of the paths inside of objects that read as text, the longest first."""
    strings: dict[str, list[Any]] = {}
    for row in rows:
        for column in columns:
            for path, text in () if is_text(row.get(column)) else _placed_strings(row.get(column), column):
                strings.setdefault(path, []).append(text)
    strings = {path: _text_strings(texts) for path, texts in strings.items() if path not in columns}
    sizes = {path: sum(map(len, texts)) for path, texts in strings.items() if _read_as_text(texts)}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _strings(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """Return the cells of a column that are text, and the items of those that are lists of it."""
    return _text_strings(row.get(column) for row in rows)


def _text_strings(cells: Iterable[Any]) -> list[str]:
    """Return the strings of cells, bytes decoded as far as possible, and the items of lists of strings."""
    values = chain.from_iterable(
        cell if isinstance(cell, list | tuple) and all(map(is_text, cell)) else (cell,) for cell in cells
    )
    texts = (value.decode("utf-8", "ignore") if isinstance(value, bytes) else value for value in values)
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _has_text(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return any(not NO_TEXT.fullmatch(text.strip()) for text in _strings(rows, column))


def _characters(rows: Sequence[Mapping[str, Any]], column: str) -> int:
    return sum(map(len, _strings(rows, column)))


def _conversation_characters(rows: Sequence[Mapping[str, Any]], column: str) -> int:
    return sum(len(message.content) for row in rows for message in conversation(row.get(column)))


def _reads_as_text(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Return True if the cells are phrases of words, mostly different ones: no ids, addresses, dates or labels."""
    return _read_as_text(_strings(rows, column))


def _read_as_text(texts: Sequence[str]) -> bool:
    if not texts or (len(texts) >= 20 and len(set(texts)) <= max(2, REPEATED * len(texts))):
        return False
    phrases = sum(_is_phrase(text.strip()) for text in texts)
    return phrases >= PROSE_SHARE * len(texts)


def _is_phrase(text: str) -> bool:
    if NO_TEXT.fullmatch(text):
        return False
    letters = sum(character.isalpha() for character in text[:1000])
    several_words = " " in text or "\n" in text or WITHOUT_SPACES.search(text[:100]) is not None
    return several_words and letters >= 0.5 * len(text[:1000])


def _no_text_column(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> TextError:
    """Return the error of a table in which no column reads as text, with what there is."""
    paths = sorted({path for row in rows[:20] for column in columns for path in _paths(row.get(column), column)})
    likely = list(_nested_text(rows, columns))
    nested = likely + [path for path in paths if path not in columns and path not in likely]
    if nested:
        hint = f"Name nested text, for example --column {nested[0]}; there are: {', '.join(nested[:8])}."
    elif columns:
        shown = (f"{column} ({_example(rows, column)})" for column in columns[:12])
        hint = f"Set the column: --column NAME. Its columns: {', '.join(shown)}."
    else:
        hint = ""
    return TextError(f"{name} has no text column in its first {len(rows)} rows.", hint=hint)


def _example(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    value = next((row[column] for row in rows if row.get(column) is not None), None)
    return repr(value) if len(repr(value)) <= 30 else repr(value)[:29] + "…"
