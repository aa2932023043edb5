"""Messages of a chat, and what of them the model reads."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, model_validator

from fabella.errors import UsageError
from fabella.generation.chat import Chat
from fabella.server.api_error import ApiError, quote
from fabella.server.requests.json_body import Body, Text, require_encodable
from fabella.text.chat.template import Message, place_of, tool_fields
from fabella.text.tables.conversation import fields_of


def _content(value: object) -> object:
    """Join content parts into one string."""
    if not isinstance(value, list):
        return value
    if not value:
        raise ValueError("content is an empty list; give at least one part.")
    return "".join(_part(part) for part in cast("list[object]", value))


def _part(part: object) -> str:
    fields = cast("dict[str, object]", part) if isinstance(part, dict) else {}
    text = fields.get("text")
    if fields.get("type") != "text" or not isinstance(text, str):
        raise ValueError(f'A content part must have the form {{"type": "text", "text": "…"}}, not {quote(part)}.')
    return text


def _check_entry(value: object, info: ValidationInfo) -> object:
    """Require that UTF-8 can encode all strings of an entry."""
    try:
        require_encodable(json.dumps(value, ensure_ascii=False), info.field_name)
    except RecursionError:
        raise ValueError(f"{info.field_name} is nested too deeply.") from None
    return value


Entry = Annotated[Any, AfterValidator(_check_entry)]


class ChatMessage(Body):
    """A message. Its content is a string or a list of text parts; that of an assistant's message may be missing.

    The other entries are those of an answer that is sent back, of this server or of another one, and of the result of
    a tool. A chat template may write them.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Text, BeforeValidator(_content)] | None = None
    name: Text = ""
    tool_calls: Annotated[list[dict[str, Any]], AfterValidator(_check_entry)] | None = None
    function_call: Annotated[dict[str, Any], AfterValidator(_check_entry)] | None = None
    tool_call_id: Entry = None
    id: Entry = None
    refusal: Entry = None
    annotations: Entry = None
    audio: Entry = None
    images: Entry = None
    reasoning: Entry = None
    reasoning_content: Entry = None
    thinking_blocks: Entry = None
    provider_specific_fields: Entry = None

    @model_validator(mode="after")
    def _require_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"The content of a message with the role {self.role} is missing.")
        return self

    def as_message(self) -> Message | None:
        """Return the message as a chat template reads it; None if it says nothing and calls no tool."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        role = "system" if self.role == "developer" else self.role
        message = Message(role, self.content or "", fields_of(given))
        return None if self.content is None and not tool_fields(message) else message


def require_written(messages: Sequence[Message], chat: Chat) -> None:
    """Raise ApiError if the chat template of the model leaves out calls of tools or their results."""
    try:
        chat.require_written(messages)
    except UsageError as error:
        raise ApiError(str(error), param="messages") from None


def require_no_tool_calls(messages: Sequence[Message]) -> None:
    """Raise ApiError for calls of tools: a model without a chat template reads only the contents."""
    for number, message in enumerate(messages):
        for name in tool_fields(message):
            raise ApiError(
                f"The model does not read the {name} of {place_of(number, message)}: it has no chat template. "
                "Leave them out, or use a model that was trained with a template that writes them.",
                param="messages",
            )
