"""Conversations and instructions in the rows of a table.

A conversation is a list of messages, in the form of OpenAI (``role``, ``content``) or of ShareGPT (``from``,
``value``), the text of such a list, a tree of messages, or a transcript in one string. Pairs of columns such as
Alpaca's ``instruction``, ``input`` and ``output`` are conversations of one turn.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from fabella.text.chat.template import TOOL_FIELDS, USUAL_ROLES, Message

ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
NAME_KEYS = ("role", "nickname", "name")
"""Where an author that is an object has its role or name."""
CONTENT_KEYS = ("content", "value", "text", "message", "parts")
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
PAIRS_OF_LANGUAGES = (
    ("frage", "antwort"), ("anweisung", "ausgabe"), ("aufgabe", "lösung"),
    ("question", "réponse"), ("consigne", "réponse"),
    ("pregunta", "respuesta"), ("instrucción", "respuesta"), ("pergunta", "resposta"), ("instrução", "resposta"),
    ("domanda", "risposta"), ("istruzione", "risposta"), ("vraag", "antwoord"), ("pytanie", "odpowiedź"),
    ("otázka", "odpověď"), ("fråga", "svar"), ("spørsmål", "svar"), ("spørgsmål", "svar"), ("soru", "cevap"),
    ("вопрос", "ответ"), ("инструкция", "ответ"), ("запрос", "ответ"), ("питання", "відповідь"),
    ("问题", "答案"), ("问题", "回答"), ("問題", "答案"), ("問題", "回答"), ("提问", "回答"),
    ("指令", "输出"), ("问", "答"),
    ("質問", "回答"), ("質問", "答え"), ("指示", "出力"), ("질문", "답변"), ("질문", "대답"), ("سؤال", "جواب"),
    ("السؤال", "الجواب"), ("प्रश्न", "उत्तर"), ("pertanyaan", "jawaban"), ("câu hỏi", "câu trả lời"),
)  # fmt: skip
"""The request and the answer in other languages than English."""
PAIRS = (
    *product(("instruction",), ("input", "context"), ANSWER_NAMES),
    *product(REQUEST_NAMES, ANSWER_NAMES), ("input", "output"), ("questions", "answers"), ("q", "a"),
    ("context", "response"), ("message", "reply"), ("anweisung", "eingabe", "ausgabe"), ("指令", "输入", "输出"),
    *product(("user", "human"), ("assistant", "bot", "gpt")), *PAIRS_OF_LANGUAGES,
)  # fmt: skip
"""Columns of instruction data: the request, more of it, and last the answer."""
ANSWER_COLUMNS = frozenset(names[-1] for names in PAIRS) - {"a"}
"""Columns of a template such as ``{prompt}\\n{response}`` that hold the answer, in lower case."""
CHOSEN, REJECTED = "chosen", "rejected"
"""Columns of preferences; only the first is what a model should say."""
SYSTEM = "system"
SYSTEM_NAMES = (SYSTEM, "system_prompt")
HISTORY = "history"
"""Column with the turns before the request, a list of pairs of request and answer."""
TRANSCRIPT = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):[ \t]*")
"""How the turns of a conversation in one string begin, as in hh-rlhf."""


def conversation(value: object) -> list[Message]:
    """Return the messages of a list of objects with a role and a content; empty for anything else.

    ``value`` may be the text of such a list, as tables of text have it, a transcript, or a tree of messages.
    """
    messages: list[Message] = []
    for item in objects_of(value):
        if item.get("type") == "service":
            continue  # "Anna joined the group", in an export of Telegram
        role = _role_of(item)
        content = next((text for key in CONTENT_KEYS if (text := _content(item.get(key))) is not None), None)
        if content is None and any(item.get(key) for key in TOOL_FIELDS):
            content = ""  # a call of a tool has no other content
        if not role or content is None:
            return []
        messages.append(Message(ROLES.get(role.lower(), role.lower()), content, fields_of(item)))
    return messages


def objects_of(value: object) -> Sequence[Mapping[Any, Any]]:
    """Return a list of objects, or the one that a cell has as JSON, as Python prints it or as a tree; else empty."""
    if isinstance(value, Mapping):
        return thread_of(value)
    if isinstance(value, str | bytes):
        text = _string(value)
        value = _list_of_text(text.strip()) or _list_of_transcript(text)
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        return value
    return ()


def thread_of(tree: Mapping[Any, Any]) -> list[dict[str, str]]:
    """Return one branch of a tree of messages; empty for anything else.

    Of OpenAssistant's trees the first replies, which are ranked best; of ChatGPT's export the newest branch, without
    messages of tools and empty ones.
    """
    nodes: list[Mapping[Any, Any]] = []
    if isinstance(tree.get("replies"), list):
        node: Any = tree
        while isinstance(node, Mapping):
            nodes.append(node)
            node = next(iter(node.get("replies") or ()), None)
    elif tree and all(isinstance(node, Mapping) and {"message", "children"} <= node.keys() for node in tree.values()):
        key = next((key for key, node in tree.items() if node.get("parent") not in tree), None)
        rest = dict(tree)  # each node once: a damaged tree may have a circle
        while node := rest.pop(key, None):
            nodes.append(node["message"] or {})
            key = node["children"][-1] if node["children"] else None
    return [
        {"role": role, "content": content}
        for node in nodes
        if (role := _role_of(node))
        and ROLES.get(role, role) in USUAL_ROLES
        and (content := next((text for key in CONTENT_KEYS if (text := _content(node.get(key)))), ""))
    ]


def _role_of(item: Mapping[Any, Any]) -> str:
    """Return the role of a message, or the name of its author; empty without one."""
    return next((role for key in ROLE_KEYS if (role := _role(item.get(key)))), "")


def _role(value: object) -> str:
    """Return a role or a name: a string, or that of an author."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in NAME_KEYS if isinstance(value.get(key), str) and value[key]), "")
    return value if isinstance(value, str) else ""


def _list_of_transcript(text: str) -> list[dict[str, str]]:
    """Return the turns of ``Human: …`` and ``Assistant: …``; empty unless the text begins with the one and has both."""
    if not text.lstrip().startswith("Human:"):
        return []
    _, *parts = TRANSCRIPT.split(text)
    messages = [
        {"role": role, "content": content.strip()} for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return messages if any(message["role"] == "Assistant" for message in messages) else []


def _list_of_text(text: str) -> object:
    return _literal(text) if "{" in text[:100] else None


def _literal(text: str) -> object:
    """Return the list that a text is in JSON, or as Python prints it; None for anything else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):  # literal_eval computes nothing
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # MemoryError: nested too deeply
            continue
    return None


def strings_of(cell: object) -> list[str]:
    """Return the strings of a list that a cell has as text, in JSON or as Python prints it; empty for anything else."""
    text = _string(cell).strip() if isinstance(cell, str | bytes) else ""
    strings = _literal(text) if text[:1] == "[" and text[1:].lstrip()[:1] in ("'", '"') else None
    return strings if isinstance(strings, list) and all(isinstance(item, str) for item in strings) else []


def fields_of(item: Mapping[Any, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the entries of a message that a template may write besides its role and content."""
    return tuple((str(key), entry) for key, entry in item.items() if key not in READ_KEYS and entry is not None)


def part_without_text(value: Sequence[Any]) -> str:
    """Return where a conversation has a part that is not text, such as an image; empty if there is none."""
    for number, item in enumerate(value, 1):
        parts = next((item[key] for key in CONTENT_KEYS if isinstance(item.get(key), list)), [])
        for part in parts:
            if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
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
    """Return the text of a content: a string, or the text parts of a list of parts, as the APIs have them.

    Strings between parts, as Telegram exports them, are one line.
    """
    if isinstance(value, Mapping):
        value = value.get("parts")
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(part, str | Mapping) for part in value):
        return None
    texts = [part if isinstance(part, str) else part.get("text") for part in value]
    present = [text for text in texts if isinstance(text, str)]
    kinds = {isinstance(part, str) for part in value}
    return ("" if len(kinds) > 1 else "\n").join(present) if present else None


def _string(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def pair_of(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of instruction data among ``columns``, as they are spelled there; empty without any."""
    by_name = {_without_accents(column.strip().lower()): column for column in reversed(columns)}
    for names in PAIRS:
        names = [_without_accents(name) for name in names]
        if all(name in by_name for name in names):
            system = tuple(by_name[name] for name in SYSTEM_NAMES if name in by_name)[:1]
            history = (by_name[HISTORY],) if HISTORY in by_name else ()
            return (*system, *history, *(by_name[name] for name in names))
    return ()


def _without_accents(name: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))


def messages_of_pair(row: Mapping[str, Any], columns: Sequence[str]) -> list[Message]:
    """Return a row of instruction data as a conversation. Empty without a request or without an answer.

    An empty input is left out. A cell may hold messages; an answer that begins with a message of the user or the system
    is the whole conversation. A history comes before the request.
    """
    *request, answer = columns
    response = _messages_in(row.get(answer), "assistant")
    if response and response[0].role != "assistant":
        return response
    prompts = [_text(row.get(column)) for column in request if column.lower() in SYSTEM_NAMES]
    system = [Message(SYSTEM, text) for text in prompts if text]
    earlier = {column: messages_of_history(row.get(column)) for column in request if column.lower() == HISTORY}
    history = [message for messages in earlier.values() for message in messages]
    request = [column for column in request if column.lower() not in SYSTEM_NAMES and not earlier.get(column)]
    cells = [row.get(column) for column in request if row.get(column) not in ([], "[]")]
    request_messages = [message for cell in cells for message in _messages_in(cell, "user")]
    if not any(conversation(cell) for cell in cells) and request_messages:
        request_messages = [Message("user", "\n\n".join(message.content for message in request_messages))]
    return [*system, *history, *request_messages, *response] if request_messages and response else []


def messages_of_history(history: object) -> list[Message]:
    """Return the messages of a history: those of a conversation, or of pairs of strings; else empty.

    Pairs are lists of two strings, or follow each other in one list. A cell may hold the text of such a list.
    """
    pairs = _literal(_string(history).strip()) if isinstance(history, str | bytes) else history
    if isinstance(pairs, list | tuple) and pairs and all(isinstance(pair, list | tuple) for pair in pairs):
        texts = [text for pair in pairs for text in pair] if all(len(pair) == 2 for pair in pairs) else []
    else:
        texts = list(pairs) if isinstance(pairs, list | tuple) and len(pairs) % 2 == 0 else []
    if not texts or not all(isinstance(text, str) for text in texts):
        return conversation(history)
    return [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


def _messages_in(cell: object, role: str) -> list[Message]:
    """Return the messages in a cell, or its text as one message of ``role``; empty for an empty cell."""
    if messages := conversation(cell):
        return messages
    return [Message(role, text)] if (text := _text(cell)) else []


def _text(cell: object) -> str:
    return "" if cell is None else _string(cell).strip()
