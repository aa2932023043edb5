"""How much one request, and all of them together, may ask of the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused beyond; each refusal names its limit."""

    max_batch_size: int = 16
    """Texts of one model that are told side by side"""
    max_queue_size: int = 64
    """Texts of one model that may wait for a place; more are answered 429"""
    body_bytes: int = 2 * 2**20
    prompts: int = 8
    """Prompts of one request"""
    n: int = 4
    """Stories for each prompt"""
    max_tokens: int = 2048
    prompt_tokens: int = 8192
    """For models without a bound; others read no more than their context"""
    messages: int = 256
    stops: int = 4
    stop_characters: int = 64
    log_probabilities: int = 20
    """Alternatives of each token"""
    requests_per_minute: float = 0.0
    """Requests for text of one client; more are answered 429. 0: no limit"""
    connections: int = 512
    receive_timeout_seconds: float = 30.0
    """To receive a request, headers and body each, and to take an answer's piece"""
    generation_timeout_seconds: float = 300.0
    """To answer; a text that is not finished then ends there"""
    shutdown_timeout_seconds: float = 30.0
    """For texts being told, after SIGTERM"""
