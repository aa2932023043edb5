"""Cache of chunk → ids: text is split where no token crosses, and the ids of each chunk are cached.

Language repeats itself: of three million chunks of TinyStories 1 % are distinct. The tokenizer encodes a chunk the
first time and the cache returns these ids afterwards, so they are always the ids of the tokenizer.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# White space of Unicode and of the GPT-2 pattern. Python's ``\s`` also matches U+001C to U+001F.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

GPT2_CHUNKS = re.compile(f"[{SPACE}]*[^{SPACE}]+|[{SPACE}]+")
"""White space with the characters after it. The GPT-2 pattern ends a pretoken where a space follows a non-space, and
has no lookbehind: a chunk has the same pretokens by itself as in the text."""

SPACE_CHUNKS = re.compile(" *[^ ]+| +")
"""Chunks for tokenizers whose pieces have spaces only at their beginning."""

MAX_CACHED_CHUNKS = 2**17
"""About 30 MB: a cached chunk of English takes 230 bytes."""
MAX_CACHED_CHARACTERS = 64
"""Longest chunk that is cached."""


class PretokenCache(dict[str, bytes]):
    """Cache of chunk → bytes of its int32 ids; a missing chunk is encoded by the tokenizer."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, chunk: str) -> bytes:
        ids = np.array(self._encode(chunk), dtype=np.int32).tobytes()
        if len(chunk) <= MAX_CACHED_CHARACTERS:
            if len(self) >= MAX_CACHED_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids


class ChunkEncoder:
    """Encoder of texts by cached chunks; ``encode`` is the tokenizer for one chunk."""

    def __init__(self, chunks: re.Pattern[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._find = chunks.findall
        self._cache = PretokenCache(encode)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text, [T]."""
        joined = bytearray().join(map(self._cache.__getitem__, self._find(text)))
        return np.frombuffer(joined, dtype=np.int32)
