"""Protocol of all tokenizers: text to ids and back, without loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.text.chat.template import ChatTemplate


class Tokenizer(Protocol):
    """Text ↔ ids. A special token in a text is encoded as plain characters."""

    kind: str
    """bytes, bpe, sentencepiece or pretrained"""
    vocab_size: int
    """Number of ids; every id is in ``range(vocab_size)``."""
    eos_id: int
    """Id that ends a document. ``encode`` never returns it; packing appends it."""
    bos_id: int | None = None
    """Id that starts each document; None for a tokenizer without one. ``encode`` never returns it."""
    special_tokens: Mapping[str, int] = MappingProxyType({})
    """Text → id of the special tokens. ``encode`` never returns their ids."""
    chat_template: ChatTemplate | None = None
    """Template that writes conversations for this tokenizer; saved with it."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text, [T]. ``decode`` restores any Unicode text unchanged."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return ``[encode(text) for text in texts]``, faster, in one process. The tokenizer can be pickled."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError for an unknown id."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token, possibly a part of a character; empty for special tokens.

        ``decode(ids)`` equals the joined bytes of its tokens, decoded; the incremental detokenizer relies on this.
        """
        ...

    def save(self, directory: Path) -> None:
        """Write the files from which ``load(directory)`` returns an equal tokenizer."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over everything that decides the ids: equal fingerprints mean equal ids."""
        ...
