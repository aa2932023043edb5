"""Limits of one request and of all requests together."""

from dataclasses import dataclass
from typing import Literal, get_args

from fabella.errors import UsageError

LongChats = Literal["drop-middle", "drop-oldest", "refuse"]
"""What happens to a chat that is longer than the context, see ``requests/chat_history.py``."""
LONG_CHATS: tuple[LongChats, ...] = get_args(LongChats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the server; an error that enforces one names the option of ``fabella serve`` that sets it."""

    max_batch_size: int = 16
    """Maximum number of sequences of one model that are decoded in one batch; at least 1."""
    max_queue_size: int = 256
    """Maximum number of queued sequences of one model; further requests get 429."""
    body_bytes: int = 4 * 2**20
    """Maximum size of a request body in bytes."""
    prompts: int = 256
    """Maximum number of prompts in one request."""
    n: int = 128
    """Maximum number of completions per prompt; OpenAI's limit."""
    max_tokens: int = 2048
    """Maximum number of new tokens per completion."""
    prompt_tokens: int = 8192
    """Maximum prompt length in tokens; a model with a shorter context accepts no more than its context."""
    messages: int = 4096
    """Maximum number of messages in a chat: an hour of short turns."""
    stops: int = 16
    """Maximum number of stop sequences."""
    stop_characters: int = 256
    """Maximum length of a stop sequence in characters."""
    log_probabilities: int = 20
    """Maximum number of alternatives per token; OpenAI's limit."""
    connections: int = 512
    """Maximum number of open connections; further ones get 503."""
    receive_timeout_seconds: float = 30.0
    """Timeout in seconds to receive the headers, to receive the body, and for the client to accept a chunk."""
    generation_timeout_seconds: float = 300.0
    """Maximum time in seconds for a response; unfinished completions then end with finish reason ``length``."""
    shutdown_timeout_seconds: float = 30.0
    """Maximum time in seconds for running requests to finish after SIGTERM."""
    long_chats: LongChats = "drop-middle"
    """What happens to a chat that is longer than the context."""

    @property
    def jobs(self) -> int:
        """Maximum number of sequences of one model that run or wait."""
        return self.max_batch_size + self.max_queue_size


OPTIONS = {
    "max_batch_size": "--max-batch-size",
    "max_queue_size": "--max-queue-size",
    "body_bytes": "--max-body-size",
    "prompts": "--max-prompts",
    "n": "--max-n",
    "max_tokens": "--max-tokens",
    "prompt_tokens": "--max-prompt-tokens",
    "messages": "--max-messages",
    "stops": "--max-stops",
    "stop_characters": "--max-stop-length",
    "log_probabilities": "--max-logprobs",
    "connections": "--max-connections",
    "receive_timeout_seconds": "--receive-timeout",
    "generation_timeout_seconds": "--request-timeout",
    "shutdown_timeout_seconds": "--shutdown-timeout",
    "long_chats": "--long-chats",
}
"""Field of ``Limits`` → option of ``fabella serve``."""


def parse_long_chats(text: str) -> LongChats:
    """Return the policy with this name. Raises UsageError for an unknown one."""
    for policy in LONG_CHATS:
        if text == policy:
            return policy
    raise UsageError(f"Unknown --long-chats {text!r}.", hint=f"Use {', '.join(LONG_CHATS)}.")


def set_by(field: str) -> str:
    """Return the sentence that says which option sets a limit."""
    return f"The limit is set by the option {OPTIONS[field]} of fabella serve."
