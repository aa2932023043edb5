"""Chat templates: Jinja templates that write a conversation as text, as Transformers renders them.

A template is named (a file of ``templates/``), a file, or that of a tokenizer. Special tokens are recognized only where
the template itself writes them: in a message, ``<|im_end|>`` is plain text.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fabella.errors import TextError, did_you_mean
from fabella.text.chat.marks import (
    ANSWER_END,
    ANSWER_START,
    BOS,
    BREAK,
    EOS,
    SPECIAL_END,
    SPECIAL_START,
    escape,
    escape_text,
    plain_text,
)
from fabella.text.chat.template_errors import RefusedConversationError, UnusableTemplateError

DIRECTORY = Path(__file__).parent / "templates"
MAX_TEMPLATE_CHARACTERS = 2**17
"""The longest template on the hub has 20,000 characters."""
DEFAULT_NAME = "plain"
GENERATION = re.compile(r"\{%-?\s*generation\b")


USUAL_ROLES = ("system", "user", "assistant")
TOOL_FIELDS = ("tool_calls", "function_call", "tools", "functions")
"""Entries of a message that are text for the model."""


class Message(NamedTuple):
    """One message of a conversation; ``role`` is user, assistant, system or another one as it is."""

    role: str
    content: str
    fields: tuple[tuple[str, Any], ...] = ()
    """Other entries that a template may write, by name: ``tool_calls`` …"""

    def as_json(self) -> dict[str, Any]:
        """Return the message as a template reads it."""
        return {"role": self.role, "content": self.content, **dict(self.fields)}


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the special tokens that it writes."""

    name: str
    """For the user: plain, chatml, …, a path, or 'tokenizer'"""
    source: str
    """Jinja template"""
    special_tokens: tuple[str, ...] = ()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        beginning: str = "",
        mark_answer: bool = True,
        tools: Sequence[Any] = (),
    ) -> str:
        """Return a conversation as text with marks (``text.chat.marks``), also around its answers if ``mark_answer``.

        ``beginning``: that of the answer that the generation prompt asks for. ``tools``: descriptions of functions, as
        in OpenAI's API. Raises RefusedConversationError if the template refuses the messages, TextError if the template
        cannot be used.
        """
        protected, tools = self._protected(messages, tools)
        text = self._render(protected, tools, add_generation_prompt=add_generation_prompt)
        if mark_answer and not GENERATION.search(self.source):
            text = self._mark_answer_spans(protected, tools, text)
        return self._with_special_tokens(text + self._protect(beginning))

    def require_written(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> None:
        """Raise RefusedConversationError if the template leaves out tools, calls of them, or messages of other roles.

        Each is tried: the conversation without it must be another text, or none that the template accepts.
        """
        if what := self.left_out(messages, tools):
            raise RefusedConversationError(
                f"the chat template {self.name!r} does not write {what}. Use one that does: --chat-template PATH."
            )

    def left_out(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """Return the first of tools, calls of them, or messages of other roles that the template leaves out, or ''."""
        if not tools and not any(_optional_parts(message) for message in messages):
            return ""
        text = self._render_or_none(messages, tools)
        if text is None:
            return ""
        # One rendering shows most of what is written; trying each takes the square of its time.
        try:
            marked = self._render_or_none([_marked(*pair) for pair in enumerate(messages)], tools) or ""
        except RecursionError:  # nested so deeply that it can only just be written
            marked = ""
        for what, mark, fewer, fewer_tools in _without_each(messages, tools):
            if (mark not in marked or mark in text) and self._render_or_none(fewer, fewer_tools) == text:
                return what
        return ""

    def _render_or_none(self, messages: Sequence[Message], tools: Sequence[Any]) -> str | None:
        try:
            return self._render(*self._protected(messages, tools), add_generation_prompt=False)
        except RefusedConversationError:
            return None

    def _protected(self, messages: Sequence[Message], tools: Sequence[Any]) -> tuple[list[Message], list[Any]]:
        """Return messages and tools in which no text is a mark or a special token."""
        try:
            return [
                Message(
                    self._protect(message.role),
                    self._protect(message.content),
                    tuple((name, self._protect_all(value)) for name, value in message.fields),
                )
                for message in messages
            ], self._protect_all(list(tools))
        except RecursionError:
            raise RefusedConversationError("the chat template fails: it is nested too deeply.") from None

    def _render(self, messages: Sequence[Message], tools: Sequence[Any], *, add_generation_prompt: bool) -> str:
        fields = [message.fields for message in messages if message.fields]
        size = sum(len(message.content) for message in messages) + (len(f"{fields}{tools}") if fields or tools else 0)
        values: dict[str, Any] = {
            "messages": [message.as_json() for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": BOS,
            "eos_token": EOS,
            "tools": tools or None,
            "documents": None,
        }
        try:
            return self._compiled.render(values, size)
        except UnusableTemplateError as error:
            raise self._unusable(str(error)) from error

    @cached_property
    def _compiled(self) -> Any:
        if len(self.source) > MAX_TEMPLATE_CHARACTERS:
            raise self._unusable(f"it has more than {MAX_TEMPLATE_CHARACTERS:,} characters")
        try:
            return importlib.import_module("fabella.text.chat.compiled_template").CompiledTemplate(self.source)
        except UnusableTemplateError as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> TextError:
        return TextError(
            f"The chat template {self.name!r} cannot be used: {reason}.",
            hint=f"Use one of {', '.join(names())}: data.chat_template=NAME (prepare: --chat-template NAME).",
        )

    def _mark_answer_spans(self, messages: Sequence[Message], tools: Sequence[Any], text: str) -> str:
        """Mark what each assistant's message adds to the text, after what asks the model for an answer."""
        result, end = "", 0
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            start, stop = self._span(messages, tools, number, text)
            result += f"{text[end:start]}{ANSWER_START}{text[start:stop]}{ANSWER_END}"
            end = stop
        return result + text[end:]

    def _span(self, messages: Sequence[Message], tools: Sequence[Any], number: int, text: str) -> tuple[int, int]:
        through = self._render(messages[: number + 1], tools, add_generation_prompt=False)
        before = self._render(messages[:number], tools, add_generation_prompt=True) if number else ""
        if not through.startswith(before):
            before = self._render(messages[:number], tools, add_generation_prompt=False)
        if not (text.startswith(through) and through.startswith(before)):
            raise RefusedConversationError(
                "the chat template writes earlier messages differently when others follow, so its answers cannot be "
                "found; put {% generation %} and {% endgeneration %} around them in the template."
            )
        # White space after the token that ends the answer is not part of it.
        stop = len(through)
        bare = through.rstrip()
        if len(bare) > len(before) and any(bare.endswith(token) for token in (*self.special_tokens, EOS)):
            stop = len(bare)
        return len(before), stop

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _protect(self, content: str) -> str:
        """Return the text of a message in which nothing is a mark or a special token."""
        text = escape_text(content)
        return self._special.sub(lambda found: found[0][0] + BREAK + found[0][1:], text) if self._special else text

    def _protect_all(self, value: Any) -> Any:
        """Return a value of JSON with all its strings protected."""
        if isinstance(value, str):
            return self._protect(value)
        if isinstance(value, Mapping):
            return {self._protect_all(key): self._protect_all(inner) for key, inner in value.items()}
        return [self._protect_all(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _with_special_tokens(self, text: str) -> str:
        if not self._special:
            return text
        return self._special.sub(lambda found: f"{SPECIAL_START}{found[0]}{SPECIAL_END}", text)


@dataclass
class ConversationWriter:
    """How one read writes conversations: with a template, and with or without marks."""

    template: ChatTemplate
    marks: bool = False
    """Whether documents have marks; a noncharacter of the text is escaped then"""
    mark_answer: bool = False
    """Whether answers are marked, too"""
    written: int = field(default=0, compare=False)
    """Conversations written so far"""

    def write(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """Return a conversation as the text of a document. Raises RefusedConversationError.

        What the template would leave out of tools, their calls and their results is refused, too.
        """
        self.template.require_written(messages, tools)
        text = self.template.render(messages, mark_answer=self.mark_answer, tools=tools)
        self.written += 1
        return text if self.marks else plain_text(text)

    def answer(self, text: str) -> str:
        """Return plain text that the model learns to answer."""
        return f"{ANSWER_START}{text}{ANSWER_END}" if self.mark_answer and text else text

    def escaped(self, cell: str | bytes) -> str | bytes:
        """Return plain text as part of a document."""
        if not self.marks:
            return cell
        return escape(cell) if isinstance(cell, bytes) else escape_text(cell)


def default_writer() -> ConversationWriter:
    """Return a writer with the template for any model, without marks."""
    return ConversationWriter(named(DEFAULT_NAME))


def marked_writer(*, mark_answer: bool = False) -> ConversationWriter:
    """Return a writer with the template for any model, for documents that a ``DocumentEncoder`` encodes."""
    return ConversationWriter(named(DEFAULT_NAME), marks=True, mark_answer=mark_answer)


def names() -> tuple[str, ...]:
    """Return the names of the built-in templates."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.yaml")))


def tool_fields(message: Message) -> list[str]:
    """Return the names of the entries of a message that are calls of tools."""
    return [name for name, value in message.fields if name in TOOL_FIELDS and value]


def place_of(number: int, message: Message) -> str:
    """Return how an error names the message with this number, from 0."""
    return f"message {number + 1} (role {message.role[:40]})"


def _optional_parts(message: Message) -> list[str]:
    """Return what of a message a template may leave out: entries that call tools, and the content of other roles."""
    other_role = message.role not in USUAL_ROLES and message.content
    return [*tool_fields(message), *(["content"] if other_role else [])]


def _mark(number: int, part: str) -> str:
    return f"[{part} {number}]"


def _marked(number: int, message: Message) -> Message:
    """Return a message with a mark in each part that a template may leave out."""
    parts = _optional_parts(message)
    fields = tuple(
        (name, _with_suffix(value, _mark(number, name)) if name in parts else value) for name, value in message.fields
    )
    return message._replace(
        content=message.content + (_mark(number, "content") if "content" in parts else ""), fields=fields
    )


def _with_suffix(value: Any, suffix: str, key: object = None) -> Any:
    """Return a value of JSON with a suffix on its strings; a type, which templates compare, has none."""
    if isinstance(value, str):
        return value if key == "type" else value + suffix
    if isinstance(value, Mapping):
        return {name: _with_suffix(inner, suffix, name) for name, inner in value.items()}
    return [_with_suffix(inner, suffix) for inner in value] if isinstance(value, list | tuple) else value


def _without_each(
    messages: Sequence[Message], tools: Sequence[Any]
) -> Iterator[tuple[str, str, Sequence[Message], Sequence[Any]]]:
    """Yield what a template may leave out, its mark, and the conversation without it."""
    if tools:
        yield "the tools", _mark(-1, "tools"), messages, ()
    for number, message in enumerate(messages):
        where = place_of(number, message)
        before, after = messages[:number], messages[number + 1 :]
        for name in tool_fields(message):
            rest = tuple(field for field in message.fields if field[0] != name)
            fewer = [*before, message._replace(fields=rest), *after]
            yield f"the {name} of {where}", _mark(number, name), fewer, tools
        if "content" in _optional_parts(message):
            other = message._replace(content=f"{message.content}x")
            yield where, _mark(number, "content"), [*before, other, *after], tools


@cache
def named(name: str) -> ChatTemplate:
    """Return a built-in template. Raises TextError for an unknown name."""
    if name not in names():
        raise TextError(f"Unknown chat template {name!r}.", hint=did_you_mean(name, names()))
    values = yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text(encoding="utf-8"))
    return ChatTemplate(name, values["template"], tuple(values["special_tokens"]))


def end_of_turn(template: ChatTemplate) -> str:
    """Return what ends an answer, with marks: a special token, EOS, or the text before the next message."""
    marker = "answer"
    messages = [Message("user", "question"), Message("assistant", marker), Message("user", "question")]
    try:
        text = template.render(messages, mark_answer=False)
    except RefusedConversationError:
        return EOS
    _, _, rest = text.partition(marker)
    return rest.replace(ANSWER_END, "").partition("question")[0]
