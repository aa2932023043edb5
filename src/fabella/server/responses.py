"""Responses in the formats of OpenAI's API: whole ones and the chunks of a stream."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fabella.server.served_completion import Delta, Token
from fabella.tokenizers.tokenizer import Tokenizer

EOS_TEXT = "<|endoftext|>"
"""Text of the EOS token among the alternatives: it has no text of its own."""
MIN_LOGPROB = -9999.0
"""Log probability of an impossible token: JSON has no infinity, and OpenAI writes this number."""


@dataclass
class CompletionChoice:
    """One completion of a whole response, built from its deltas."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Append a delta."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish_reason = finish_reason(delta)


def finish_reason(delta: Delta) -> str | None:
    """Return OpenAI's finish reason: ``stop`` (also for EOS), ``length``, or None before the end."""
    return None if delta.finish_reason is None else "length" if delta.finish_reason == "length" else "stop"


class ResponseFormat(ABC):
    """Common parts of completions and chat completions."""

    object_name: str
    chunk_name: str
    prefix: str

    def __init__(self, model: str, fingerprint: str, tokenizer: Tokenizer, *, log_probabilities: bool) -> None:
        self._tokenizer, self._log_probabilities = tokenizer, log_probabilities
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def response(self, choices: Sequence[CompletionChoice], usage: dict[str, Any]) -> dict[str, Any]:
        """Return the whole response."""
        content = [
            {"index": index, **self._message(choice.text), **self._tail(choice.tokens, choice.finish_reason)}
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "object": self.object_name, "choices": content, "usage": usage}

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the chunk of one delta."""
        choice = {"index": index, **self._delta(delta.text), **self._tail(delta.tokens, finish_reason(delta))}
        return {**self._head, "object": self.chunk_name, "choices": [choice]}

    @abstractmethod
    def first_chunk(self, index: int) -> dict[str, Any] | None:
        """Return the chunk before the first delta; None if the format has none."""

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the last chunk, sent on request."""
        return {**self._head, "object": self.chunk_name, "choices": [], "usage": usage}

    @abstractmethod
    def _message(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _delta(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]: ...

    def _tail(self, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        return {"logprobs": self._logprobs(tokens) if self._log_probabilities else None, "finish_reason": reason}

    def _bytes(self, token: int) -> bytes:
        return EOS_TEXT.encode() if token == self._tokenizer.eos_id else self._tokenizer.token_bytes(token)

    def _text(self, token: int) -> str:
        """Return the token's text; incomplete characters are spelled as in OpenAI's API."""
        raw = self._bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class CompletionFormat(ResponseFormat):
    """Format of ``/v1/completions``."""

    object_name, chunk_name, prefix = "text_completion", "text_completion", "cmpl"

    def first_chunk(self, index: int) -> dict[str, Any] | None:
        return None

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    _delta = _message

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [
                None if token.log_probability is None else _clamp(token.log_probability) for token in tokens
            ],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """Return the alternatives, the most likely first, and the token itself, as in OpenAI's API.

        Of two ids with the same text, the more likely one is kept.
        """
        if token.log_probability is None:
            return None
        top: dict[str, float] = {}
        for id_, value in (*token.alternatives, (token.id, token.log_probability)):
            top.setdefault(self._text(id_), _clamp(value))
        return top


class ChatFormat(ResponseFormat):
    """Format of ``/v1/chat/completions``."""

    object_name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first_chunk(self, index: int) -> dict[str, Any] | None:
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, **self._tail([], None)}
        return {**self._head, "object": self.chunk_name, "choices": [choice]}

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = [
            {
                **self._logprob(token.id, 0.0 if token.log_probability is None else token.log_probability),
                "top_logprobs": [self._logprob(*alternative) for alternative in token.alternatives],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _logprob(self, token: int, log_probability: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": _clamp(log_probability), "bytes": list(self._bytes(token))}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _clamp(log_probability: float) -> float:
    return max(log_probability, MIN_LOGPROB)
