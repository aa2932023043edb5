"""Prompts as token ids, within the context of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import UsageError
from fabella.generation.chat import Chat
from fabella.server.api_error import ApiError, quote
from fabella.server.limits import set_by
from fabella.text.chat.template import Message
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer

Prompt = str | list[int]
"""Text, or token ids."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """Token ids that the model reads: those of the prompt after the BOS or EOS id that precedes every document."""

    ids: NDArray[np.int32]
    """Token ids with that id, [T]."""
    num_prefix_tokens: int
    """1 if that id was added, 0 if the prompt itself starts with it."""
    dropped_messages: int = 0
    """Messages of a chat that did not fit."""

    @property
    def given_ids(self) -> NDArray[np.int32]:
        """The ids of the prompt without an added BOS or EOS id."""
        return self.ids[self.num_prefix_tokens :]


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Encodes prompts for one model."""

    tokenizer: Tokenizer
    max_tokens: int
    """Maximum prompt length in tokens, without the token that precedes it."""
    limited_by_option: bool
    """True if an option of the server limits ``max_tokens``, and not the context of the model."""
    longest_token: int
    """Length of the longest token in bytes."""
    chat: Chat | None = None
    """The chat template of the model; None for one that knows no roles."""

    def encode(self, prompt: Prompt, truncate_to: int) -> EncodedPrompt:
        """Return the ids of a prompt.

        ``truncate_to``: keep this many of the last tokens; -1: as many as fit; 0: raise ApiError for a longer prompt.
        """
        most = min(self.max_tokens, truncate_to if truncate_to > 0 else self.max_tokens)
        if isinstance(prompt, list):
            ids = self._checked_ids(prompt)
        else:
            ids = self.tokenizer.encode(self._limit_text(prompt, most, truncate=truncate_to != 0))
        starts_document = bool(len(ids)) and int(ids[0]) == prefix_id(self.tokenizer)
        if len(ids) - starts_document <= most:
            return self._after_prefix(ids, starts_document=starts_document)
        if not truncate_to:
            raise self._too_long(f"has {len(ids) - starts_document:,} tokens")
        return self._after_prefix(ids[len(ids) - most :], starts_document=False)

    def fits(self, text: str, most: int) -> bool:
        """Return whether a text has at most ``most`` tokens; a much longer one is not tokenized."""
        return len(text.encode()) <= most * self.longest_token and len(self.tokenizer.encode(text)) <= most

    def encode_chat(self, chat: Chat, messages: Sequence[Message], truncate_to: int) -> EncodedPrompt:
        """Return the ids of a conversation in the chat template. Raises ApiError, also if the template refuses it."""
        try:
            return self.encode(chat.encode(messages).tolist(), truncate_to)
        except UsageError as error:
            raise ApiError(error.message, param="messages") from None

    def fits_chat(self, chat: Chat, messages: Sequence[Message], most: int) -> bool:
        """Return whether the template takes the messages and they have at most ``most`` tokens."""
        if sum(len(message.content.encode()) for message in messages) > most * self.longest_token:
            return False
        try:
            return len(chat.encode(messages)) <= most
        except UsageError:
            return False

    def _after_prefix(self, ids: NDArray[np.int32], *, starts_document: bool) -> EncodedPrompt:
        if starts_document:
            return EncodedPrompt(ids.astype(np.int32), 0)
        return EncodedPrompt(np.concatenate([[prefix_id(self.tokenizer)], ids]).astype(np.int32), 1)

    def _limit_text(self, prompt: str, most: int, *, truncate: bool) -> str:
        """Truncate or refuse a text that no tokenization makes short enough, without tokenizing it."""
        if truncate:
            return prompt[max(0, len(prompt) - most * self.longest_token) :]
        size = len(prompt.encode())
        if size > most * self.longest_token:
            raise self._too_long(f"has at least {-(-size // self.longest_token):,} tokens")
        return prompt

    def _checked_ids(self, ids: list[int]) -> NDArray[np.int32]:
        vocab_size = self.tokenizer.vocab_size
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            message = f"prompt contains the token id {quote(wrong)}; ids are from 0 to {vocab_size - 1:,}."
            raise ApiError(message, param="prompt")
        return np.array(ids, dtype=np.int32)

    def _too_long(self, length: str) -> ApiError:
        """Return the error in the words by which clients recognize it, and take a model with a longer context."""
        rule = (
            f"This model's maximum context length is {self.max_tokens:,} tokens; the prompt is too long: it {length}."
        )
        advice = "Shorten it, or send truncate_prompt_tokens=-1 to keep its end."
        option = f" {set_by('prompt_tokens')}" if self.limited_by_option else ""
        return ApiError(f"{rule} {advice}{option}", param="prompt", code="context_length_exceeded")
