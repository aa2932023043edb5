"""Conversations and instructions in the rows of a table, as text.

A conversation is a list of messages, in the form of OpenAI (``role``, ``content``) or of ShareGPT (``from``,
``value``). Pairs of columns such as Alpaca's ``instruction``, ``input`` and ``output`` are conversations of one turn.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fabella.errors import TextError

ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message")
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
SYSTEM = "system"

CHAT_TEMPLATES = {
    "plain": "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n' }}Assistant:{% endif %}",
    "chatml": "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "alpaca": "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}### Instruction:\n{{ message.content }}"
    "{% else %}### Response:\n{{ message.content }}{% endif %}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n' }}### Response:\n{% endif %}",
}
"""Name → Jinja template, with the variables that templates on the Hugging Face hub have."""


class Message(NamedTuple):
    """One message of a conversation; ``role`` is user, assistant, system or another one as it is."""

    role: str
    content: str


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
        if role is None or content is None:
            return []
        messages.append(Message(ROLES.get(role.lower(), role.lower()), content))
    return messages


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


def render(messages: Sequence[Message], template: str, *, add_generation_prompt: bool = False) -> str:
    """Return a conversation as text: ``template`` is a name of CHAT_TEMPLATES or a Jinja template.

    Raises TextError for a template that cannot be used.
    """
    try:
        return _compiled(template).render(
            messages=[message._asdict() for message in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token="",
            eos_token="",
        )
    except TemplateError as error:
        names = ", ".join(CHAT_TEMPLATES)
        raise TextError(
            f"The chat template cannot be used: {error}.", hint=f"Use {names}, or the chat_template of a tokenizer."
        ) from error


@cache
def _compiled(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(CHAT_TEMPLATES.get(template, template))
