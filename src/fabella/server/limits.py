"""Limits of one request and of all requests together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the server; an error that enforces one names it."""

    max_batch_size: int = 16
    """Maximum number of sequences of one model that are decoded in one batch; at least 1."""
    max_queue_size: int = 64
    """Maximum number of queued sequences of one model; further requests get 429."""
    body_bytes: int = 2 * 2**20
    """Maximum size of a request body in bytes."""
    prompts: int = 8
    """Maximum number of prompts in one request."""
    n: int = 4
    """Maximum number of completions per prompt."""
    max_tokens: int = 2048
    """Maximum number of new tokens per completion."""
    prompt_tokens: int = 8192
    """Maximum prompt length in tokens; a model with a shorter context accepts no more than its context."""
    messages: int = 256
    """Maximum number of messages in a chat."""
    stops: int = 4
    """Maximum number of stop sequences."""
    stop_characters: int = 64
    """Maximum length of a stop sequence in characters."""
    log_probabilities: int = 20
    """Maximum number of alternatives per token."""
    connections: int = 512
    """Maximum number of open connections; further ones get 503."""
    receive_timeout_seconds: float = 30.0
    """Timeout in seconds to receive the headers, to receive the body, and for the client to accept a chunk."""
    generation_timeout_seconds: float = 300.0
    """Maximum time in seconds for a response; unfinished completions then end with finish reason ``length``."""
    shutdown_timeout_seconds: float = 30.0
    """Maximum time in seconds for running requests to finish after SIGTERM."""
