"""Tokenizer of the Hugging Face ``tokenizers`` library, with the contract of ``Tokenizer``.

Special tokens in a text are encoded as text; nothing is padded, truncated or added; dropout is off.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from fabella.errors import TokenizerError
from fabella.text.chat.template import ChatTemplate
from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.pretoken_cache import GPT2_CHUNKS, ChunkEncoder
from fabella.tokenizers.tokenizer import Tokenizer

LONG_TEXT = 1000
"""Characters from which the batch method of the library is used, which releases the interpreter lock."""


class HuggingFaceTokenizer(Tokenizer):
    """Tokenizer from the text of a checked ``tokenizer.json``; ``eos_token`` ends a document."""

    def __init__(
        self,
        kind: str,
        text: str,
        eos_token: str,
        values: dict[str, Any] | None = None,
        *,
        bos_token: str = "",
        special_tokens: Sequence[str] = (),
    ) -> None:
        """``values`` is the parsed ``text``, if the caller has it. ``special_tokens`` that are missing are added."""
        self.kind = kind
        self._library = _configured(text, [eos_token, *([bos_token] if bos_token else []), *special_tokens])
        _require_different_tokens(self._library)
        # The library has made the EOS token special; this text is saved, and decides the ids.
        self._text = self._library.to_str()
        self._eos_token, self._bos_token = eos_token, bos_token
        parsed: dict[str, Any] = values if values and self._text == text else json.loads(self._text)
        self._table = vocab_bytes.bytes_table(parsed)
        self.vocab_size = len(self._table)
        self.eos_id = _id_of(self._library, eos_token)
        self.bos_id = _id_of(self._library, bos_token) if bos_token else None
        self.special_tokens = {
            token["content"]: token["id"] for token in parsed.get("added_tokens") or [] if token["special"]
        }
        self._chunks = ChunkEncoder(GPT2_CHUNKS, self._library_ids) if splits_like_gpt2(parsed) else None

    def encode(self, text: str) -> NDArray[np.int32]:
        vocab_bytes.utf8(text)
        return self._chunks.encode(text) if self._chunks else vocab_bytes.as_ids(self._library_ids(text))

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if self._chunks:
            return [self.encode(text) for text in texts]
        for text in texts:
            vocab_bytes.utf8(text)
        try:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            raise _to_tokenizer_error(error) from error
        return [vocab_bytes.as_ids(encoding.ids) for encoding in encodings]

    def _library_ids(self, text: str) -> list[int]:
        try:
            if len(text) >= LONG_TEXT:
                return self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return self._library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise _to_tokenizer_error(error) from error

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(self._table, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.token_bytes(self._table, token)

    def save(self, directory: Path) -> None:
        record = metadata.TokenizerMetadata(kind=self.kind, eos_token=self._eos_token, bos_token=self._bos_token)
        metadata.write(directory, record, {metadata.JSON_FILE: self._text.encode()}, self.chat_template)

    def with_special_tokens(self, special_tokens: Sequence[str]) -> "HuggingFaceTokenizer":
        """Return this tokenizer with more special tokens, whose ids are the next ones."""
        tokenizer = HuggingFaceTokenizer(
            self.kind, self._text, self._eos_token, bos_token=self._bos_token, special_tokens=special_tokens
        )
        tokenizer.chat_template = self.chat_template
        return tokenizer

    @property
    def fingerprint(self) -> str:
        start = f"{self._bos_token}\n" if self._bos_token else ""
        return hashlib.sha256(f"{start}{self._eos_token}\n{self._text}".encode()).hexdigest()

    def __reduce__(self) -> tuple[Callable[..., "HuggingFaceTokenizer"], tuple[Any, ...]]:
        return _restored, (self.kind, self._text, self._eos_token, self._bos_token, self.chat_template)


def _restored(
    kind: str, text: str, eos_token: str, bos_token: str, chat_template: ChatTemplate | None
) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer(kind, text, eos_token, bos_token=bos_token)
    tokenizer.chat_template = chat_template
    return tokenizer


def start_token(text: str, eos_token: str) -> str:
    """Return the special token that a checked ``tokenizer.json`` puts before a text; empty if it adds none.

    The end token is no start token: every document is preceded by one already.
    """
    try:
        library: Library = Library.from_str(text)
        tokens = library.encode("", add_special_tokens=True).tokens
    except BaseException as error:
        raise _to_tokenizer_error(error) from error
    return tokens[0] if tokens and tokens[0] != eos_token else ""


def _configured(text: str, special_tokens: Sequence[str]) -> Library:
    try:
        library: Library = Library.from_str(text)
    except BaseException as error:
        raise _to_tokenizer_error(error) from error
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True
    if getattr(library.model, "dropout", None) is not None:
        library.model.dropout = None
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return library


def _require_different_tokens(library: Library) -> None:
    """Raise TokenizerError if normalization makes two added tokens equal.

    The library then takes one of them by chance, another one in each process.
    """
    normalizer = library.normalizer
    tokens = [token for token in library.get_added_tokens_decoder().values() if token.normalized]
    if normalizer is None or all(token.special for token in tokens):
        return
    seen: dict[str, AddedToken] = {}
    for token in tokens:
        other = seen.setdefault(normalizer.normalize_str(token.content), token)
        if other is not token and not (other.special and token.special):
            raise TokenizerError(
                f"The added tokens {other.content!r} and {token.content!r} are equal after normalization, so that the "
                "tokenizers library encodes one of them by chance.",
                hint='Remove one of them from "added_tokens" in tokenizer.json, or set its "normalized" to false.',
            )


def _id_of(library: Library, token: str) -> int:
    number = library.token_to_id(token)
    assert number is not None, "adding a special token gives it an id"
    return number


def _to_tokenizer_error(error: BaseException) -> BaseException:
    """Return a TokenizerError for an error or a panic (no Exception) of the library; return others unchanged."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return TokenizerError(
            f"The tokenizers library cannot use this tokenizer: {str(error)[:300]}.",
            hint="Use another tokenizer, or tokenizer.kind=bpe to train one.",
        )
    return error


def splits_like_gpt2(values: dict[str, Any]) -> bool:
    """Return True if a ``tokenizer.json`` splits text into pretokens by the GPT-2 pattern only."""
    special = all(token["special"] for token in values.get("added_tokens") or [])
    return special and values.get("normalizer") is None and pretokenizes_like_gpt2(values)


def pretokenizes_like_gpt2(values: dict[str, Any]) -> bool:
    """Return True if a ``tokenizer.json`` splits normalized text between its added tokens by the GPT-2 pattern only."""
    pre_tokenizer = values.get("pre_tokenizer") or {}
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("add_prefix_space") is False
        and pre_tokenizer.get("use_regex", True) is True
    )
