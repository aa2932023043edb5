"""How a ``tokenizer.json`` spells bytes: from its decoder, the bytes each token stands for."""

import json
import re
from collections.abc import Callable
from typing import Any

from fabella.errors import TokenizerError
from fabella.tokenizers.vocab_bytes import Table

SPACE_MARK = "▁"
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
REPLACEMENT = "\ufffd".encode()


def bytes_to_unicode() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(256 + i): value for i, value in enumerate(others)}


LETTERS = bytes_to_unicode()
# For str.translate: letters become the characters of their bytes, all other characters of Latin-1 what it cannot hold.
BYTES_OF_LETTERS = dict.fromkeys(range(256), "\uffff") | {ord(key): chr(value) for key, value in LETTERS.items()}


def table(values: dict[str, Any]) -> Table:
    """Bytes of every id of a checked ``tokenizer.json``; empty for special tokens, None for ids without a token."""
    spell = _speller(values.get("decoder"))
    added = {token["id"]: token for token in values.get("added_tokens") or []}
    vocab_size = token_ids(values["model"])
    size = max([*vocab_size.values(), *added], default=-1) + 1
    result: list[bytes | None] = [None] * size
    unknown = _unknown(values["model"])
    for token, number in vocab_size.items():
        result[number] = REPLACEMENT if token == unknown else spell(token)
    for number, token in added.items():
        result[number] = b"" if token["special"] else token["content"].encode()
    return result


def token_ids(model: dict[str, Any]) -> dict[str, int]:
    """Token → id of a model's vocabulary, whether it is a mapping or (Unigram) a list of (token, score)."""
    vocab_size = model["vocab"]
    if isinstance(vocab_size, list):
        return {entry[0]: number for number, entry in enumerate(vocab_size)}
    return vocab_size


def _unknown(model: dict[str, Any]) -> str | None:
    if model.get("type") == "Unigram":
        number = model.get("unk_id")
        return None if number is None else model["vocab"][number][0]
    return model.get("unk_token")


Speller = Callable[[str], bytes]


def _speller(decoder: dict[str, Any] | None) -> Speller:
    """Token → bytes, by the decoder. Raises TokenizerError for one that is not known to give text back."""
    steps = [] if decoder is None else decoder.get("decoders", []) if decoder["type"] == "Sequence" else [decoder]
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"Metaspace", "Replace"}:
        return _marked(_mark(steps))
    if kinds == {"WordPiece"}:
        return _prefixed(steps[0].get("prefix", "##"))
    if kinds == {"BPEDecoder"}:
        return _suffixed(steps[0].get("suffix", "</w>"))
    raise TokenizerError(
        f"The tokenizer's decoder ({json.dumps(decoder)[:200]}) is not one that Fabella can turn ids into text with.",
        hint="Known are ByteLevel, Metaspace, Replace, ByteFallback, WordPiece, BPEDecoder. Or tokenizer.kind=bpe.",
    )


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(BYTES_OF_LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _mark(steps: list[dict[str, Any]]) -> str:
    """The character that stands for a space: of a Metaspace, or of a Replace back to a space."""
    for step in steps:
        if step["type"] == "Metaspace":
            return step.get("replacement", SPACE_MARK)
        if step["type"] == "Replace" and step.get("content") == " " and "String" in step.get("pattern", {}):
            return step["pattern"]["String"]
    return SPACE_MARK


def _marked(mark: str) -> Speller:
    def spell(token: str) -> bytes:
        byte = BYTE_PIECE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(mark, " ").encode()

    return spell


def _prefixed(prefix: str) -> Speller:
    """Tokens that begin with ``prefix`` go on with a word; all others begin one."""
    return lambda token: (token.removeprefix(prefix) if token.startswith(prefix) else f" {token}").encode()


def _suffixed(suffix: str) -> Speller:
    """Tokens that end with ``suffix`` end a word."""
    return lambda token: token.replace(suffix, " ").encode()
