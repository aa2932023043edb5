"""Answers in the shapes of OpenAI's API: whole ones, and the chunks of a stream."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fabella.server.delta_stream import Delta, Token
from fabella.tokenizers.tokenizer import Tokenizer

END = "<|endoftext|>"
"""How the end of a document is called among alternatives: it has no text."""


@dataclass
class CompletionChoice:
    """One text of an answer, as far as it was told."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Delta) -> None:
        """Go on."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = finish(piece)


def finish(piece: Delta) -> str | None:
    """Why a text ended, in OpenAI's words."""
    return None if piece.ended_by is None else "length" if piece.ended_by == "length" else "stop"


class ResponseFormat(ABC):
    """What completions and chats share."""

    object_name: str
    chunk_name: str
    prefix: str

    def __init__(self, model: str, fingerprint: str, tokenizer: Tokenizer, *, log_probabilities: bool) -> None:
        self._tokenizer, self._with = tokenizer, log_probabilities
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def answer(self, choices: Sequence[CompletionChoice], usage: dict[str, Any]) -> dict[str, Any]:
        """All texts, told to their ends."""
        shaped = [
            {"index": index, **self._message(choice.text), **self._rest(choice.tokens, choice.finish)}
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "object": self.object_name, "choices": shaped, "usage": usage}

    def piece(self, index: int, piece: Delta) -> dict[str, Any]:
        """A chunk with what one step added."""
        shaped = {"index": index, **self._delta(piece.text), **self._rest(piece.tokens, finish(piece))}
        return {**self._head, "object": self.chunk_name, "choices": [shaped]}

    @abstractmethod
    def first_chunk(self, index: int) -> dict[str, Any] | None:
        """The chunk that comes before the first piece, if there is one."""

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return {**self._head, "object": self.chunk_name, "choices": [], "usage": usage}

    @abstractmethod
    def _message(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _delta(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]: ...

    def _rest(self, tokens: Sequence[Token], ended: str | None) -> dict[str, Any]:
        return {"logprobs": self._logprobs(tokens) if self._with else None, "finish_reason": ended}

    def _bytes(self, token: int) -> bytes:
        return END.encode() if token == self._tokenizer.eos_id else self._tokenizer.token_bytes(token)

    def _text(self, token: int) -> str:
        """Its text; parts of characters as OpenAI writes them."""
        spelled = self._bytes(token)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


class CompletionFormat(ResponseFormat):
    """``/v1/completions``"""

    object_name, chunk_name, prefix = "text_completion", "text_completion", "cmpl"

    def first_chunk(self, index: int) -> dict[str, Any] | None:
        return None

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    _delta = _message

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [_nats(token.log_probability) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }

    def _top(self, token: Token) -> dict[str, float]:
        # Of two ids with the same text the likelier one stays, which comes first.
        return {self._text(one): _nats(value) for one, value in reversed(token.alternatives)}


class ChatFormat(ResponseFormat):
    """``/v1/chat/completions``"""

    object_name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first_chunk(self, index: int) -> dict[str, Any] | None:
        shaped = {"index": index, "delta": {"role": "assistant", "content": ""}, **self._rest([], None)}
        return {**self._head, "object": self.chunk_name, "choices": [shaped]}

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        shaped = [
            {
                **self._one(token.id, token.log_probability),
                "top_logprobs": [self._one(*alternative) for alternative in token.alternatives],
            }
            for token in tokens
        ]
        return {"content": shaped, "refusal": None}

    def _one(self, token: int, log_probability: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": _nats(log_probability), "bytes": list(self._bytes(token))}


def usage(prompt_tokens: int, told_tokens: int) -> dict[str, Any]:
    """As OpenAI counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": told_tokens,
        "total_tokens": prompt_tokens + told_tokens,
    }


def _nats(value: float) -> float:
    """JSON has no infinity; OpenAI writes this number for what cannot come."""
    return max(value, -9999.0)
