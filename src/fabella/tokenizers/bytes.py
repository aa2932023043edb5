"""The simplest tokenizer: the bytes of UTF-8 are the ids, and 0xFF, which UTF-8 never holds, ends a document."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.tokenizer import Tokenizer

VOCABULARY = 256
END = 0xFF
TABLE: vocab_bytes.Table = [*(bytes([value]) for value in range(END)), b""]


class ByteTokenizer(Tokenizer):
    """One id a byte, 0 to 255."""

    kind = "bytes"
    vocab_size = VOCABULARY
    eos_id = END

    def encode(self, text: str) -> NDArray[np.int32]:
        return np.frombuffer(vocab_bytes.utf8(text), dtype=np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(TABLE, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.one(TABLE, token)

    def save(self, folder: Path) -> None:
        metadata.write(folder, metadata.TokenizerMetadata(kind=self.kind, end=""), {})

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"bytes").hexdigest()
