"""The contract of every tokenizer: text to ids and back, without losing a character."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tokenizer(Protocol):
    """Text ↔ ids. Text is only ever text: the spelling of a special token in it is encoded as plain characters."""

    kind: str
    """bytes, bpe, sentencepiece or pretrained"""
    vocab_size: int
    """Number of ids; every id is in ``range(vocabulary)``."""
    eos_id: int
    """The id that ends a document. ``encode`` never gives it; whoever packs documents appends it."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text, [T]. ``decode`` gives the text back unchanged, whatever Unicode it holds."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """``[encode(text) for text in texts]``, faster; one process, picklable between processes."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD. Raises TokenizerError for an unknown id."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for (a token may be half a character); empty for special tokens.

        ``decode(ids)`` equals the joined bytes of its tokens, decoded; streaming text is built on this.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the files from which ``load(folder)`` makes an equal tokenizer."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over everything that decides the ids: equal fingerprints, equal ids."""
        ...
