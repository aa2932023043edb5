"""Conversations and instructions in the rows of a table.

A conversation is a list of messages, in the form of OpenAI (``role``, ``content``) or of ShareGPT (``from``,
``value``). Pairs of columns such as Alpaca's ``instruction``, ``input`` and ``output`` are conversations of one turn.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fabella.text.chat.template import TOOL_FIELDS, Message

ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message")
READ_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS))
TOOLS = "tools"
"""Column with the descriptions of the tools of a conversation."""
ROLES = {
    "human": "user", "prompter": "user", "instruction": "user", "question": "user",
    "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant", "ai": "assistant",
    "answer": "assistant", "response": "assistant",
}  # fmt: skip
"""Other names of the roles user and assistant."""
PAIRS = (
    ("instruction", "input", "output"), ("instruction", "context", "response"), ("instruction", "output"),
    ("instruction", "response"), ("prompt", "response"), ("prompt", "completion"), ("question", "answer"),
    ("query", "response"), ("input", "output"), ("user", "assistant"),
)  # fmt: skip
"""Columns of instruction data: the request, more of it, and last the answer."""
ANSWER_COLUMNS = frozenset({"output", "response", "completion", "answer", "assistant"})
"""Columns of a template such as ``{prompt}\\n{response}`` that hold the answer, in lower case."""
SYSTEM = "system"


def conversation(value: object) -> list[Message]:
    """Return the messages of a list of objects with a role and a content; empty for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return []
    messages: list[Message] = []
    for item in value:
        if not isinstance(item, Mapping):
            return []
        role = next((str(item[key]) for key in ROLE_KEYS if isinstance(item.get(key), str)), None)
        content = next((text for key in CONTENT_KEYS if (text := _content(item.get(key))) is not None), None)
        if content is None and any(item.get(key) for key in TOOL_FIELDS):
            content = ""  # a call of a tool has no other content
        if role is None or content is None:
            return []
        messages.append(Message(ROLES.get(role.lower(), role.lower()), content, fields_of(item)))
    return messages


def fields_of(item: Mapping[Any, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the entries of a message that a template may write besides its role and content."""
    return tuple((str(key), entry) for key, entry in item.items() if key not in READ_KEYS and entry is not None)


def part_without_text(value: Sequence[Any]) -> str:
    """Return where a conversation has a part that is not text, such as an image; empty if there is none."""
    for number, item in enumerate(value, 1):
        parts = next((item[key] for key in CONTENT_KEYS if isinstance(item.get(key), list)), [])
        for part in parts:
            if not isinstance(part.get("text"), str):
                return f"message {number} has a part of type {str(part.get('type'))[:40]!r}"
    return ""


def has_tools(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether rows have a column of tools: one with that name, unless it is plain text."""
    cells = [row[TOOLS] for row in rows if row.get(TOOLS)]
    plain = [isinstance(cell, str) and not cell.lstrip().startswith(("[", "{")) for cell in cells]
    return any(TOOLS in row for row in rows) and not (plain and all(plain))


def tools_of(value: object) -> list[Any] | None:
    """Return the descriptions of tools in a cell, a list or its JSON; None for anything else, [] for an empty cell."""
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            return None
    return [] if value is None else list(value) if isinstance(value, list | tuple) else None


def _content(value: object) -> str | None:
    """Return the text of a content: a string, or the text parts of a list of parts, as OpenAI's API has them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        texts = [part["text"] for part in value if isinstance(part.get("text"), str)]
        return "\n".join(texts) if texts else None
    return None


def _string(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def pair_of(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of instruction data among ``columns``, as they are spelled there; empty without any."""
    by_name = {column.lower(): column for column in reversed(columns)}
    for names in PAIRS:
        if all(name in by_name for name in names):
            system = (by_name[SYSTEM],) if SYSTEM in by_name else ()
            return (*system, *(by_name[name] for name in names))
    return ()


def messages_of_pair(row: Mapping[str, Any], columns: Sequence[str]) -> list[Message]:
    """Return a row of instruction data as a conversation; an empty input is left out. Empty without an answer."""
    *request, answer = columns
    texts = {column: _string(row[column]).strip() for column in columns if row.get(column) is not None}
    system = [Message(SYSTEM, texts[column]) for column in request if column.lower() == SYSTEM and texts.get(column)]
    request_text = "\n\n".join(texts[column] for column in request if column.lower() != SYSTEM and texts.get(column))
    if not texts.get(answer) or not request_text:
        return []
    return [*system, Message("user", request_text), Message("assistant", texts[answer])]
