"""Hashes of word n-grams: runs of n words, without case and punctuation."""

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fabella.splitmix64 import GAMMA, splitmix64

# A character of a script without spaces (Chinese, Japanese) is a word of its own.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
CACHED_WORDS = 2**18
"""Words of which the hash is kept: all frequent ones of a language."""
FACTOR = np.uint64(GAMMA)


def word_hashes(text: str) -> NDArray[np.uint64]:
    """Return the hash of each word of a text, [words]; the same in every process."""
    return np.array([_word_hash(word) for word in WORD.findall(text.lower())], dtype=np.uint64)


@lru_cache(maxsize=CACHED_WORDS)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")


def ngram_hashes(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return the hash of each run of ``n`` words, [words - n + 1]; of all words together if there are fewer."""
    n = min(n, len(words))
    count = max(len(words) - n + 1, 0) if n else 0
    hashes = np.zeros(count, np.uint64)
    for offset in range(n):
        hashes = hashes * FACTOR + words[offset : offset + count]
    return splitmix64(hashes)
