"""Fast encoding by memory: text is cut where no token can cross, and the ids of every chunk are kept.

Language repeats itself: of three million chunks of TinyStories 1 % are distinct. A chunk's ids come from
the tokenizer itself the first time and from a dictionary ever after, so that they are the tokenizer's own ids.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# White space as Unicode (and the GPT-2 pattern) has it. Python's ``\s`` also takes U+001C to U+001F.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

GPT2_CHUNKS = re.compile(f"[{SPACE}]*[^{SPACE}]+|[{SPACE}]+")
"""White space and what follows it. The GPT-2 pattern always ends a word where a space follows a non-space,
and never looks behind: each chunk is cut into the same words alone as within the text."""

SPACE_CHUNKS = re.compile(" *[^ ]+| +")
"""The same for tokenizers whose pieces have spaces only at their beginning."""

# About 30 MB at most: a remembered chunk of English takes 230 bytes.
MOST_REMEMBERED = 2**17
LONGEST_REMEMBERED = 64


class PretokenCache(dict[str, bytes]):
    """Chunk → its ids as the bytes of an int32 array; asks the tokenizer for what is missing."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, chunk: str) -> bytes:
        ids = np.array(self._encode(chunk), dtype=np.int32).tobytes()
        if len(chunk) <= LONGEST_REMEMBERED:
            if len(self) >= MOST_REMEMBERED:
                self.clear()
            self[chunk] = ids
        return ids


class ChunkEncoder:
    """Encodes whole texts chunk by chunk; ``encode`` gives the ids of one chunk."""

    def __init__(self, chunks: re.Pattern[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._find = chunks.findall
        self._memory = PretokenCache(encode)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text, [T]."""
        joined = bytearray().join(map(self._memory.__getitem__, self._find(text)))
        return np.frombuffer(joined, dtype=np.int32)
