"""How well tokenizers suit a text: how much of it a token carries, and whether the text comes back."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerStats:
    """One tokenizer on one text."""

    vocab_size: int
    tokens: int
    bytes_per_token: float
    """of UTF-8; a model's context reaches this many times its tokens"""
    fertility: float
    """tokens per word, words being what white space separates"""
    coverage: float
    """share of the text's bytes that tokens of whole characters carry; the rest is in pieces of characters, or lost"""
    used: float
    """share of the vocabulary that occurs in the text"""
    round_trip: bool
    """whether every document comes back unchanged"""


def measure_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerStats:
    """Measure ``tokenizer`` on ``texts``."""
    words = size = changed = 0
    times = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        ids = tokenizer.encode(text)
        times += np.bincount(ids, minlength=tokenizer.vocab_size)
        words += len(text.split())
        size += len(text.encode())
        changed += tokenizer.decode(ids.tolist()) != text
    tokens = int(times.sum())
    return TokenizerStats(
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        bytes_per_token=size / max(tokens, 1),
        fertility=tokens / max(words, 1),
        coverage=_bytes_in_whole_characters(tokenizer, times) / max(size, 1),
        used=float((times > 0).mean()),
        round_trip=not changed,
    )


def _bytes_in_whole_characters(tokenizer: Tokenizer, times: NDArray[np.int64]) -> int:
    spelled = [(int(times[token]), tokenizer.token_bytes(int(token))) for token in np.flatnonzero(times)]
    return sum(count * len(piece) for count, piece in spelled if _is_whole(piece))


def _is_whole(piece: bytes) -> bool:
    try:
        # An unknown token stands for U+FFFD: it carries nothing of the text.
        return piece.decode() != "\ufffd"
    except UnicodeDecodeError:
        return False
