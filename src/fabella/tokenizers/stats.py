"""Tokenizer statistics on a text: bytes per token, fertility, coverage, round trip."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerStats:
    """Statistics of one tokenizer on one text."""

    vocab_size: int
    tokens: int
    bytes_per_token: float
    """bytes of UTF-8 per token; higher fits more text into the context"""
    fertility: float
    """tokens per word; words are separated by white space"""
    coverage: float
    """share of the bytes in tokens of complete characters; the rest is in parts of characters, or lost"""
    used: float
    """share of the vocabulary that occurs in the text"""
    round_trip: bool
    """True if every document is restored unchanged"""


def measure_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerStats:
    """Return the statistics of ``tokenizer`` on ``texts``."""
    words = size = changed = 0
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        ids = tokenizer.encode(text)
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
        words += len(text.split())
        size += len(text.encode())
        changed += tokenizer.decode(ids.tolist()) != text
    tokens = int(counts.sum())
    return TokenizerStats(
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        bytes_per_token=size / max(tokens, 1),
        fertility=tokens / max(words, 1),
        coverage=_bytes_in_complete_characters(tokenizer, counts) / max(size, 1),
        used=float((counts > 0).mean()),
        round_trip=not changed,
    )


def _bytes_in_complete_characters(tokenizer: Tokenizer, counts: NDArray[np.int64]) -> int:
    tokens = [(int(counts[token]), tokenizer.token_bytes(int(token))) for token in np.flatnonzero(counts)]
    return sum(count * len(piece) for count, piece in tokens if _is_complete(piece))


def _is_complete(piece: bytes) -> bool:
    try:
        # An unknown token is U+FFFD: it carries no text.
        return piece.decode() != "\ufffd"
    except UnicodeDecodeError:
        return False
