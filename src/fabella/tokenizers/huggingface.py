"""A tokenizer of the Hugging Face ``tokenizers`` library, made to keep Fabella's contract.

The spelling of a special token in a text is text; no text is padded, cut or given extra tokens; dropout is off.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from fabella.errors import TokenizerError
from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.byte_alphabet import table
from fabella.tokenizers.pretoken_cache import GPT2_CHUNKS, ChunkEncoder
from fabella.tokenizers.tokenizer import Tokenizer

LONG = 1000
"""Characters from which on the library's way for batches is taken: it alone lets other threads go on meanwhile."""


class HuggingTokenizer(Tokenizer):
    """``text`` is the content of a checked ``tokenizer.json``; ``end`` the spelling of the end of a document."""

    def __init__(self, kind: str, text: str, end: str, values: dict[str, Any] | None = None) -> None:
        """``values``: ``text`` parsed, if it was."""
        self.kind = kind
        self._library = _configured(text, end)
        # With the end token made special; the file we save, and the one that decides the ids.
        self._text = self._library.to_str()
        self._end_spelling = end
        parsed: dict[str, Any] = values if values and self._text == text else json.loads(self._text)
        self._table = table(parsed)
        self.vocab_size = len(self._table)
        self.eos_id = _id_of(self._library, end)
        self._chunks = ChunkEncoder(GPT2_CHUNKS, self._library_ids) if cuts_like_gpt2(parsed) else None

    def encode(self, text: str) -> NDArray[np.int32]:
        vocab_bytes.utf8(text)
        return self._chunks.encode(text) if self._chunks else vocab_bytes.as_ids(self._library_ids(text))

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if self._chunks:
            return [self.encode(text) for text in texts]
        for text in texts:
            vocab_bytes.utf8(text)
        try:
            found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            raise _panic_in_words(error) from error
        return [vocab_bytes.as_ids(encoding.ids) for encoding in found]

    def _library_ids(self, text: str) -> list[int]:
        try:
            if len(text) >= LONG:
                return self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return self._library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise _panic_in_words(error) from error

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(self._table, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.one(self._table, token)

    def save(self, folder: Path) -> None:
        kept = metadata.TokenizerMetadata(kind=self.kind, end=self._end_spelling)
        metadata.write(folder, kept, {metadata.JSON_FILE: self._text.encode()})

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._end_spelling}\n{self._text}".encode()).hexdigest()

    def __reduce__(self) -> tuple[type["HuggingTokenizer"], tuple[str, str, str]]:
        return HuggingTokenizer, (self.kind, self._text, self._end_spelling)


def _configured(text: str, end: str) -> Library:
    try:
        library: Library = Library.from_str(text)
    except BaseException as error:
        raise _panic_in_words(error) from error
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True
    if getattr(library.model, "dropout", None) is not None:
        library.model.dropout = None
    library.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return library


def _id_of(library: Library, token: str) -> int:
    number = library.token_to_id(token)
    assert number is not None, "adding a special token gives it an id"
    return number


def _panic_in_words(error: BaseException) -> BaseException:
    """The library raises bare Exceptions, and panics that are no Exception at all; others pass through unchanged."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return TokenizerError(
            f"The tokenizers library cannot use this tokenizer: {str(error)[:300]}.",
            hint="Use another tokenizer, or tokenizer.kind=bpe to train one.",
        )
    return error


def cuts_like_gpt2(values: dict[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` cuts text into words by the GPT-2 pattern and by nothing else."""
    cutter = values.get("pre_tokenizer") or {}
    return (
        values.get("normalizer") is None
        and cutter.get("type") == "ByteLevel"
        and cutter.get("add_prefix_space") is False
        and cutter.get("use_regex", True) is True
        and all(token["special"] for token in values.get("added_tokens") or [])
    )
