"""A tokenizer as the data of ``tokenizer.js``: symbols, merges or scores, and how a text is split.

The source is the ``tokenizer.json`` that Fabella exports for every tokenizer. A part of it that ``tokenizer.js`` cannot
compute equally is refused with its name.
"""

import re
from collections.abc import Iterator
from typing import Any

from fabella.errors import TokenizerError
from fabella.interop.tokenizer_json import to_json, tokenizer_json
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.huggingface import HuggingFaceTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import LETTERS

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Pretokens of GPT-2, as ``ByteLevel`` splits them."""
UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
UNKNOWN_PENALTY = 10.0
"""Below the lowest score, for a character without a piece, as in the tokenizers library."""
_IGNORE_CASE = re.compile(r"\(\?i:([^()\[\]\\]*)\)")
_UNSUPPORTED = re.compile(
    r"(?:[?+*]|\d\})\+|\(\?(?![:=!])|\\[^sSdrntpPu^$\\.*+?()\[\]{}|/-]|&&|\[:|\\[pP](?!\{(?:L[utlmo]?|M[cen]?|N[dlo]?|P[cdseifo]?|"
    r"S[mcko]?|Z[slp]?|C[cfn]?)\})"
)
"""Parts of a pattern that JavaScript lacks or reads differently: possessive repeats, inline options, other escapes."""
_CLASSES = {r"\s": r"\p{White_Space}", r"\S": r"\P{White_Space}", r"\d": r"\p{Decimal_Number}"}


def tokenizer_data(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the data of a tokenizer. Raises TokenizerError for one that the page cannot compute equally."""
    values = to_json(tokenizer_json(tokenizer))
    model = values["model"]
    plain = [token["content"] for token in values.get("added_tokens") or [] if not token["special"]]
    if plain:
        raise _unsupported(f"the added token {plain[0]!r}")
    split, byte_level = _split(values.get("pre_tokenizer"))
    special = {tokenizer.eos_id, *tokenizer.special_tokens.values()}
    if model["type"] == "BPE":
        symbols = _bpe(model, byte_level, special)
    elif model["type"] == "Unigram":
        # In a text, SentencePiece never reads a piece that is special or a byte; the tokenizers library reads all.
        library_reads_all = isinstance(tokenizer, HuggingFaceTokenizer)
        symbols = _unigram(model, set() if library_reads_all else special, bytes_in_text=library_reads_all)
    else:
        raise _unsupported(f"the model {model['type']}")
    return {
        "prefix": prefix_id(tokenizer),
        "eos": tokenizer.eos_id,
        "tokens": [_bytes_as_text(tokenizer, number) for number in range(tokenizer.vocab_size)],
        "normalize": [list(step) for step in _normalize(values.get("normalizer"))],
        "split": split,
        "bytes": byte_level,
        **symbols,
    }


def _bytes_as_text(tokenizer: Tokenizer, number: int) -> str:
    """Return the bytes of a token, one character each; empty for an id without a token."""
    try:
        return tokenizer.token_bytes(number).decode("latin-1")
    except TokenizerError:
        return ""


def _bpe(model: dict[str, Any], byte_level: bool, special: set[int]) -> dict[str, Any]:
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _unsupported(f"the {name} {model[name]!r}")
    vocab = {token: number for token, number in model["vocab"].items() if number not in special}
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in model["merges"]]
    ids = model["vocab"]
    to_text = _letters_as_bytes if byte_level else str
    whole = [(to_text(token), number) for token, number in vocab.items()] if model.get("ignore_merges") else None
    return {
        "symbols": [(to_text(token), number) for token, number in vocab.items() if len(token) == 1],
        "merges": [ids[part] for left, right in pairs for part in (left, right, left + right)],
        "whole": whole,
        "scores": None,
        "fallback": _byte_ids(ids) if model.get("byte_fallback") else None,
        "unknown": ids.get(model.get("unk_token")),
        "fuse": bool(model.get("fuse_unk")),
    }


def _unigram(model: dict[str, Any], special: set[int], *, bytes_in_text: bool) -> dict[str, Any]:
    pieces = [(number, piece, score) for number, (piece, score) in enumerate(model["vocab"])]
    ids = {piece: number for number, piece, _ in pieces}
    fallback = _byte_ids(ids) if model.get("byte_fallback") else None
    hidden = special if bytes_in_text else special | set(fallback or ()) | {model.get("unk_id")}
    return {
        "symbols": [(piece, number) for number, piece, _ in pieces if number not in hidden],
        "merges": [],
        "whole": None,
        "scores": [score for _, _, score in pieces],
        "longest": max(len(piece) for _, piece, _ in pieces),
        "unknown_score": min(score for _, _, score in pieces) - UNKNOWN_PENALTY,
        "fallback": fallback,
        "unknown": model.get("unk_id"),
        "fuse": True,
    }


def _byte_ids(vocab: dict[str, int]) -> list[int] | None:
    """Return the id of each byte; None if some are missing: then none is used."""
    names = [f"<0x{value:02X}>" for value in range(256)]
    return [vocab[name] for name in names] if all(name in vocab for name in names) else None


def _letters_as_bytes(token: str) -> str:
    """Return the bytes of a token of GPT-2's byte alphabet, one character each; others stay."""
    return "".join(chr(LETTERS[letter]) if letter in LETTERS else letter for letter in token)


def _normalize(normalizer: dict[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    if normalizer is None:
        return
    kind = normalizer["type"]
    if kind == "Sequence":
        for step in normalizer["normalizers"]:
            yield from _normalize(step)
    elif kind == "Prepend":
        yield "prepend", normalizer["prepend"], ""
    elif kind == "Replace" and "String" in normalizer["pattern"]:
        yield "replace", normalizer["pattern"]["String"], normalizer["content"]
    elif kind in UNICODE_FORMS:
        yield "normalize", kind, ""
    else:
        raise _unsupported(f"the normalizer {kind}")


def _split(pre_tokenizer: dict[str, Any] | None) -> tuple[list[dict[str, Any]], bool]:
    """Return the steps that split a text, and whether the parts become bytes."""
    if pre_tokenizer is None:
        return [], False
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    found: list[dict[str, Any]] = []
    byte_level = False
    for step in steps:
        if byte_level:
            raise _unsupported("a pre-tokenizer after ByteLevel")
        byte_level = step["type"] == "ByteLevel"
        found.append(_split_step(step))
    return found, byte_level


def _split_step(step: dict[str, Any]) -> dict[str, Any]:
    kind = step["type"]
    if kind == "ByteLevel":
        pattern = _pattern(GPT2_PATTERN) if step.get("use_regex", True) else ""
        return {"prefix_space": bool(step.get("add_prefix_space")), "pattern": pattern}
    if kind == "Digits":
        return {"pattern": r"\p{N}" if step.get("individual_digits") else r"\p{N}+"}
    if kind == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
        given = step["pattern"]
        return {"pattern": _pattern(given["Regex"]) if "Regex" in given else _escaped(given["String"])}
    raise _unsupported(f"the pre-tokenizer {kind}")


def _pattern(pattern: str) -> str:
    r"""Return a pattern of Oniguruma for JavaScript with the flags ``gu``: ``\s`` is Unicode's white space."""
    pattern = _IGNORE_CASE.sub(lambda group: f"(?:{_any_case(group[1])})", pattern)
    if found := _UNSUPPORTED.search(pattern):
        raise _unsupported(f"{found[0]!r} in the pattern {pattern[:60]!r}")
    return re.sub(r"\\[sSd]", lambda name: _CLASSES[name[0]], pattern)


def _any_case(text: str) -> str:
    """Return a pattern that matches letters in both cases, s also as ſ (U+017F), k as the Kelvin sign."""
    more = {"s": "\u017f", "k": "\u212a"}
    return "".join(
        f"[{c.lower()}{c.upper()}{more.get(c.lower(), '')}]" if c.isascii() and c.isalpha() else c for c in text
    )


def _escaped(text: str) -> str:
    return re.sub(r"[.*+?^${}()|[\]\\/\-]", lambda sign: f"\\{sign[0]}", text).replace("\\-", "-")


def _unsupported(what: str) -> TokenizerError:
    return TokenizerError(
        f"Format html cannot compute this tokenizer equally: it has {what}.",
        hint="Export to another format (--to hf), or train with tokenizer.kind=bpe.",
    )
