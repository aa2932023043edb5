"""Conversations and instructions in the rows of a table.

A conversation is a list of messages, in the form of OpenAI (``role``, ``content``) or of ShareGPT (``from``,
``value``), or the text of such a list. Pairs of columns such as Alpaca's ``instruction``, ``input`` and ``output`` are
conversations of one turn.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from itertools import product
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
REQUEST_NAMES = ("instruction", "prompt", "question", "query", "problem")
ANSWER_NAMES = ("output", "response", "completion", "solution", "answer", "chosen")
PAIRS = (
    *product(("instruction",), ("input", "context"), ANSWER_NAMES),
    *product(REQUEST_NAMES, ANSWER_NAMES), ("input", "output"), ("user", "assistant"),
)  # fmt: skip
"""Columns of instruction data: the request, more of it, and last the answer."""
ANSWER_COLUMNS = frozenset((*ANSWER_NAMES, "assistant"))
"""Columns of a template such as ``{prompt}\\n{response}`` that hold the answer, in lower case."""
CHOSEN, REJECTED = "chosen", "rejected"
"""Columns of preferences; only the first is what a model should say."""
SYSTEM = "system"


def conversation(value: object) -> list[Message]:
    """Return the messages of a list of objects with a role and a content; empty for anything else.

    ``value`` may be the text of such a list, as tables of text have it.
    """
    messages: list[Message] = []
    for item in objects_of(value):
        role = next((str(item[key]) for key in ROLE_KEYS if isinstance(item.get(key), str)), None)
        content = next((text for key in CONTENT_KEYS if (text := _content(item.get(key))) is not None), None)
        if content is None and any(item.get(key) for key in TOOL_FIELDS):
            content = ""  # a call of a tool has no other content
        if role is None or content is None:
            return []
        messages.append(Message(ROLES.get(role.lower(), role.lower()), content, fields_of(item)))
    return messages


def objects_of(value: object) -> Sequence[Mapping[Any, Any]]:
    """Return a list of objects, or the one that a cell has as JSON or as Python prints it; else empty."""
    if isinstance(value, str | bytes):
        value = _list_of_text(_string(value).strip())
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        return value
    return ()


def _list_of_text(text: str) -> object:
    if not (text.startswith("[") and text.endswith("]") and "{" in text[:100]):
        return None
    for read in (json.loads, ast.literal_eval):  # literal_eval computes nothing
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # MemoryError: nested too deeply
            continue
    return None


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
    """Return a row of instruction data as a conversation. Empty without a request or without an answer.

    An empty input is left out. A cell may hold messages; an answer that begins with a message of the user or the system
    is the whole conversation.
    """
    *request, answer = columns
    response = _messages_in(row.get(answer), "assistant")
    if response and response[0].role != "assistant":
        return response
    system = [
        Message(SYSTEM, text) for column in request if column.lower() == SYSTEM and (text := _text(row.get(column)))
    ]
    cells = [row.get(column) for column in request if column.lower() != SYSTEM]
    request_messages = [message for cell in cells for message in _messages_in(cell, "user")]
    if not any(conversation(cell) for cell in cells) and request_messages:
        request_messages = [Message("user", "\n\n".join(message.content for message in request_messages))]
    return [*system, *request_messages, *response] if request_messages and response else []


def _messages_in(cell: object, role: str) -> list[Message]:
    """Return the messages in a cell, or its text as one message of ``role``; empty for an empty cell."""
    if messages := conversation(cell):
        return messages
    return [Message(role, text)] if (text := _text(cell)) else []


def _text(cell: object) -> str:
    return "" if cell is None else _string(cell).strip()
