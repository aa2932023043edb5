"""Bytes of each token id: GPT-2's byte alphabet, the decoders of ``tokenizer.json``, and decoding by a table."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError

Table = Sequence[bytes | None]
"""Bytes of each id; empty for special tokens, None for ids without a token."""
SPACE_MARK = "▁"
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
REPLACEMENT = "\ufffd".encode()

# ---------------------------------------------------------------- decoding by a table


def decode_bytes(table: Table, ids: Sequence[int]) -> bytes:
    """Return the bytes of ``ids``. Raises TokenizerError for an unknown id."""
    numbers = np.asarray(ids, dtype=np.int64).tolist()
    if numbers and (min(numbers) < 0 or max(numbers) >= len(table)):
        raise unknown_id(next(number for number in numbers if not 0 <= number < len(table)), len(table))
    return b"".join([token_bytes(table, number) for number in numbers])


def token_bytes(table: Table, token: int) -> bytes:
    """Return the bytes of one id. Raises TokenizerError for an unknown id."""
    content = table[token] if 0 <= token < len(table) else None
    if content is None:
        raise unknown_id(token, len(table))
    return content


def unknown_id(token: int, vocab_size: int) -> TokenizerError:
    """Return the error for an id without a token."""
    return TokenizerError(
        f"Unknown token id {token}. The ids of this tokenizer are 0 to {vocab_size - 1}.",
        hint="Use the tokenizer that the text or the model was made with.",
    )


def utf8(text: str) -> bytes:
    """Return a text as UTF-8. Raises TokenizerError for a lone surrogate, which UTF-8 cannot encode."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise lone_surrogate(text, error.start) from None


def lone_surrogate(text: str, position: int) -> TokenizerError:
    """Return the error for a lone surrogate at ``position``."""
    return TokenizerError(
        f"Cannot encode character {position} of the text, U+{ord(text[position]):04X}: a lone surrogate is not text.",
        hint="Read the text with errors='replace', or remove it.",
    )


def as_ids(ids: Sequence[int]) -> NDArray[np.int32]:
    """Return a list of ids as the array that ``encode`` returns."""
    return np.array(ids, dtype=np.int32)


# ---------------------------------------------------------------- the bytes of a tokenizer.json


def bytes_to_unicode() -> dict[str, int]:
    """Return GPT-2's letters for the 256 bytes: printable Latin-1 as itself, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(256 + i): value for i, value in enumerate(others)}


LETTERS = bytes_to_unicode()
# For str.translate: letters become the characters of their bytes; the other characters of Latin-1 become one that
# Latin-1 cannot encode.
BYTES_OF_LETTERS = dict.fromkeys(range(256), "\uffff") | {ord(key): chr(value) for key, value in LETTERS.items()}


def bytes_table(values: dict[str, Any]) -> Table:
    """Return the bytes of every id of a checked ``tokenizer.json``.

    Raises TokenizerError for an unsupported decoder.
    """
    to_bytes = _token_decoder(values.get("decoder"))
    added = {token["id"]: token for token in values.get("added_tokens") or []}
    vocab = token_ids(values["model"])
    result: list[bytes | None] = [None] * (max([*vocab.values(), *added], default=-1) + 1)
    unknown = _unknown_token(values["model"])
    for token, number in vocab.items():
        result[number] = REPLACEMENT if token == unknown else to_bytes(token)
    for number, token in added.items():
        result[number] = b"" if token["special"] else token["content"].encode()
    return result


def token_ids(model: dict[str, Any]) -> dict[str, int]:
    """Return token → id of a vocabulary, given as a mapping or (Unigram) as a list of (token, score)."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {entry[0]: number for number, entry in enumerate(vocab)}
    return vocab


def _unknown_token(model: dict[str, Any]) -> str | None:
    if model.get("type") == "Unigram":
        number = model.get("unk_id")
        return None if number is None else model["vocab"][number][0]
    return model.get("unk_token")


TokenDecoder = Callable[[str], bytes]


def _token_decoder(decoder: dict[str, Any] | None) -> TokenDecoder:
    """Return token → bytes for a decoder. Raises TokenizerError for a decoder that may not restore the text."""
    steps = [] if decoder is None else decoder.get("decoders", []) if decoder["type"] == "Sequence" else [decoder]
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"Metaspace", "Replace"}:
        return _with_space_mark(_space_mark(steps))
    if kinds == {"ByteFallback", "Fuse"}:  # tokens contain spaces
        return _with_space_mark(" ")
    if kinds == {"WordPiece"}:
        return _with_prefix(steps[0].get("prefix", "##"))
    if kinds == {"BPEDecoder"}:
        return _with_suffix(steps[0].get("suffix", "</w>"))
    raise TokenizerError(
        f"Unsupported decoder of the tokenizer: {json.dumps(decoder)[:200]}.",
        hint="Supported are ByteLevel, Metaspace, Replace, ByteFallback, WordPiece, BPEDecoder. Or tokenizer.kind=bpe.",
    )


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(BYTES_OF_LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _space_mark(steps: list[dict[str, Any]]) -> str:
    """Return the character for a space: of a Metaspace, or of a Replace with a space."""
    for step in steps:
        if step["type"] == "Metaspace":
            return step.get("replacement", SPACE_MARK)
        if step["type"] == "Replace" and step.get("content") == " " and "String" in step.get("pattern", {}):
            return step["pattern"]["String"]
    return SPACE_MARK


def _with_space_mark(mark: str) -> TokenDecoder:
    def to_bytes(token: str) -> bytes:
        byte = BYTE_PIECE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(mark, " ").encode()

    return to_bytes


def _with_prefix(prefix: str) -> TokenDecoder:
    """Decode WordPiece: tokens with ``prefix`` continue a word, all others start one after a space."""
    return lambda token: (token.removeprefix(prefix) if token.startswith(prefix) else f" {token}").encode()


def _with_suffix(suffix: str) -> TokenDecoder:
    """Decode tokens with ``suffix`` as the end of a word."""
    return lambda token: token.replace(suffix, " ").encode()
