"""Conversations with a model that was trained with a chat template: its prompts, and what ends an answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.errors import UsageError
from fabella.text.chat.marks import EOS, parse, plain_text
from fabella.text.chat.template import (
    ChatTemplate,
    ConversationWriter,
    Message,
    end_of_turn,
    marked_writer,
    tool_fields,
)
from fabella.text.chat.template_errors import RefusedConversationError
from fabella.tokenizers.chat.encode import DocumentEncoder, prefix_id
from fabella.tokenizers.tokenizer import Tokenizer

__all__ = ["Chat", "ConversationWriter", "Message", "chat_of", "conversation_writer", "prefix_id"]


class Chat:
    """The chat template of a tokenizer, applied to the messages of a conversation."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.template = template
        self._encoder = DocumentEncoder(tokenizer)
        self.stop: tuple[str, ...] = ()
        """Text that ends an answer, for a template without a token for it"""
        self.stop_ids: frozenset[int] = frozenset()
        """Ids that end an answer, in addition to EOS"""
        ending = next(iter(parse(end_of_turn(template) or EOS)))
        if ending.kind == "special":
            self.stop_ids = frozenset({tokenizer.special_tokens[ending.text]})
        elif ending.kind == "text" and ending.text.strip():
            self.stop = (ending.text.rstrip(),)

    def require_written(self, messages: Sequence[Message]) -> None:
        """Raise UsageError if the template leaves out calls of tools or messages of other roles.

        It is the rule of training data (``ChatTemplate.require_written``).
        """
        if what := self.template.left_out(messages):
            raise UsageError(
                f"The model's chat template does not write {what}.",
                hint="Leave it out, or use a model that was trained with a template that writes it.",
            )

    def text(self, messages: Sequence[Message]) -> str:
        """Return the prompt that asks for the next answer, as a reader sees it. Raises UsageError."""
        return plain_text(self._prompt(messages))

    def encode(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Return the ids of the prompt that asks for the next answer; they follow the start of a document.

        If the last message is the assistant's, the answer continues it, unless it calls tools. Raises UsageError for a
        conversation that the template refuses.
        """
        return self._encoder.encode_prompt(self._prompt(messages))

    def _prompt(self, messages: Sequence[Message]) -> str:
        last = messages[-1] if messages else None
        beginning = last.content if last and last.role == "assistant" and not tool_fields(last) else ""
        before = messages[:-1] if beginning else messages
        try:
            return self.template.render(before, add_generation_prompt=True, beginning=beginning, mark_answer=False)
        except RefusedConversationError as error:
            raise UsageError(f"The conversation cannot be written: {error}") from error


def conversation_writer(chat: Chat | None) -> ConversationWriter:
    """Return the writer of conversations for a model, with marks: in its chat template, if it has one."""
    return ConversationWriter(chat.template, marks=True) if chat else marked_writer()


def chat_of(tokenizer: Tokenizer) -> Chat | None:
    """Return the chat of a tokenizer that has a chat template, else None."""
    return Chat(tokenizer, tokenizer.chat_template) if tokenizer.chat_template else None
