"""Byte tokenizer: the 256 bytes of UTF-8 as ids; 0xFF, which UTF-8 never contains, is the EOS id."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.tokenizer import Tokenizer

VOCAB_SIZE = 256
EOS_ID = 0xFF
TABLE: vocab_bytes.Table = [*(bytes([value]) for value in range(EOS_ID)), b""]


class ByteTokenizer(Tokenizer):
    """One id per byte, 0 to 255; special tokens have the ids from 256 on."""

    kind = "bytes"
    vocab_size = VOCAB_SIZE
    eos_id = EOS_ID
    _table = TABLE

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        self.special_tokens = {token: VOCAB_SIZE + number for number, token in enumerate(special_tokens)}
        self.vocab_size = VOCAB_SIZE + len(self.special_tokens)
        self._table = [*TABLE, *([b""] * len(self.special_tokens))]

    def encode(self, text: str) -> NDArray[np.int32]:
        return np.frombuffer(vocab_bytes.utf8(text), dtype=np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(self._table, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.token_bytes(self._table, token)

    def save(self, directory: Path) -> None:
        record = metadata.TokenizerMetadata(kind=self.kind, eos_token="", special_tokens=tuple(self.special_tokens))
        metadata.write(directory, record, {}, self.chat_template)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(["bytes", *self.special_tokens]).encode()).hexdigest()
