"""Vocabulary of a GGUF file: byte-level BPE (``gpt2``) and BPE with scores (``llama``), in both directions."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from fabella.errors import TokenizerError
from fabella.interop.tokenizer_json import (
    merges_by_score,
    plain_added_tokens,
    saved_files,
    sentencepiece_of,
    tokenizer_json,
)
from fabella.text.chat.template import ChatTemplate
from fabella.tokenizers import metadata, pretrained
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.huggingface import pretokenizes_like_gpt2
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import BYTE_PIECE, SPACE_MARK

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens in GGUF."""
KEY = "tokenizer.ggml."
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
COMPOSES = "NFC"
"""Normalizer of GPT-NeoX and Qwen, which changes no text that is composed already, as almost all is."""
SPLITS = {
    "qwen2": rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{WORDS}|\p{{N}}|{OTHERS}",
    "llama-bpe": rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{WORDS}|\p{{N}}{{1,3}}|{OTHERS}",
}
"""Patterns of the pretokenizers that llama.cpp knows by these names (its src/llama-vocab.cpp)."""
LIKE_GPT2 = ("gpt-2", "mpt", "olmo", "jais", "default", "")
"""Pretokenizers with the pattern of GPT-2; that of GPT-NeoX is called olmo."""
NO_MERGES = "no merges"
"""The only merge of a vocabulary without: llama.cpp loads no other. It never applies, as symbols are characters."""
DIGITS_FIRST = ("smollm", "codeshell", "starcoder")
"""Pretokenizers that split digits, then as GPT-2."""


@dataclass(frozen=True, slots=True)
class Vocab:
    """Tokens of a GGUF file by id."""

    model: str
    """gpt2 or llama"""
    pre: str
    texts: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list[float])
    merges: list[str] = field(default_factory=list[str])
    add_space: bool = False


def vocab_of(tokenizer: Tokenizer, rows: int) -> Vocab:
    """Return the vocabulary of a tokenizer for a model of so many rows. Raises TokenizerError if GGUF has no such."""
    added = added_texts(tokenizer)
    scored = sentencepiece_of(tokenizer)
    if scored is not None:
        # The text of an added token is written as it is, that of a piece with the mark for its spaces.
        texts = [added.get(number, text.decode().replace(" ", SPACE_MARK)) for number, (text, _) in enumerate(scored)]
        special = {0, tokenizer.eos_id, prefix_id(tokenizer), *tokenizer.special_tokens.values()}
        types = [
            USER_DEFINED if number in added else _type_of(text, number, special) for number, text in enumerate(texts)
        ]
        adds = tokenizer.decode(tokenizer.encode("a").tolist()).startswith(" ")
        if adds and added:
            text = next(iter(added.values()))
            raise _no_such_token(f"the added token {text!r} in a tokenizer that puts a space before a text")
        vocab = Vocab("llama", "default", texts, types, [score for _, score in scored], add_space=adds)
    else:
        vocab = _byte_level(tokenizer, added)
    for number in range(len(vocab.texts), rows):
        vocab.texts.append(f"[PAD{number}]")
        vocab.types.append(UNUSED)
        if vocab.model == "llama":
            vocab.scores.append(-1e9)
    return vocab


def _type_of(text: str, number: int, special: set[int]) -> int:
    if BYTE_PIECE.fullmatch(text):
        return BYTE
    return UNKNOWN if number == 0 else CONTROL if number in special else NORMAL


def added_texts(tokenizer: Tokenizer) -> dict[int, str]:
    """Return id → text of the added tokens that are not special, which GGUF calls user-defined.

    Raises TokenizerError for those that llama.cpp would not find in a text as the tokenizers library does: it takes the
    longest first, wherever it is, and knows no rule for their neighbors.
    """
    added = plain_added_tokens(tokenizer)
    for token in added:
        rule = next((name for name in ("lstrip", "rstrip", "single_word") if token.get(name)), "")
        if rule:
            raise _no_such_token(f"the rule {rule} of the added token {token['content']!r}")
    if pair := overlapping([token["content"] for token in added]):
        raise _no_such_token(f"the order of the added tokens {pair[0]!r} and {pair[1]!r}, which can overlap")
    return {token["id"]: token["content"] for token in added}


def overlapping(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return two texts such that the second, which is no shorter, can begin within the first; None without such.

    In ``abcd``, the first of ``ab`` and ``bcd`` is found from the left, and the second as the longest. Runs of one
    character are found alike.
    """
    by_prefix: dict[str, list[str]] = {}
    for text in texts:
        for length in range(1, len(text)):
            by_prefix.setdefault(text[:length], []).append(text)
    for first in texts:
        for start in range(1, len(first)):
            for second in by_prefix.get(first[start:], []):
                same_run = len(set(first + second)) == 1
                if second != first and len(second.encode()) >= len(first.encode()) and not same_run:
                    return first, second
    return None


def normalizer_of(values: Mapping[str, Any]) -> str:
    """Return the type of the normalizer of a ``tokenizer.json``; empty without one."""
    return str((values.get("normalizer") or {}).get("type", ""))


def reads_marks_as_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether llama.cpp takes the mark of a space in a text for a space: its vocabularies with scores do."""
    return sentencepiece_of(tokenizer) is not None


def warnings_of(tokenizer: Tokenizer) -> list[str]:
    """Return what llama.cpp does not do as this tokenizer, for texts that few people have."""
    if reads_marks_as_spaces(tokenizer):
        return [f"llama.cpp reads {SPACE_MARK} (U+2581) as a space. Other text has the same tokens."]
    values = json.loads(saved_files(tokenizer).get(metadata.JSON_FILE, b"{}"))
    if normalizer_of(values) != COMPOSES:
        return []
    return [
        "llama.cpp does not compose characters, as this tokenizer does (NFC): it reads a letter and a combining accent "
        "as two characters. Other text has the same tokens."
    ]


def _no_such_token(what: str) -> TokenizerError:
    return TokenizerError(f"llama.cpp does not know {what}.", hint="Use --to hf, or --to safetensors.")


def _byte_level(tokenizer: Tokenizer, user_defined: Container[int]) -> Vocab:
    values = json.loads(tokenizer_json(tokenizer).to_str())
    model = values["model"]
    if normalizer_of(values) not in ("", COMPOSES):
        raise _no_such_token(f"the normalizer {normalizer_of(values)} of this tokenizer")
    known = isinstance(tokenizer, ByteTokenizer) or _is_like_gpt2(tokenizer)
    if model["type"] != "BPE" or not known:
        raise TokenizerError(
            "llama.cpp has no name for the pretokenizer of this tokenizer.", hint="Use --to hf, or --to safetensors."
        )
    added = {token["id"]: token["content"] for token in values["added_tokens"]}
    texts_by_id = {number: text for text, number in model["vocab"].items()} | added
    texts = [texts_by_id.get(number, f"[PAD{number}]") for number in range(max(texts_by_id) + 1)]
    types = [
        USER_DEFINED if n in user_defined else CONTROL if n in added else NORMAL if n in texts_by_id else UNUSED
        for n in range(len(texts))
    ]
    return Vocab("gpt2", "gpt-2", texts, types, merges=[" ".join(pair) for pair in model["merges"]])


def _is_like_gpt2(tokenizer: Tokenizer) -> bool:
    files = saved_files(tokenizer)
    return metadata.JSON_FILE in files and pretokenizes_like_gpt2(json.loads(files[metadata.JSON_FILE]))


def write_vocab(writer: Any, tokenizer: Tokenizer, rows: int) -> None:
    """Add the vocabulary to a GGUFWriter: tokens, merges or scores, first id, EOS, chat template."""
    vocab = vocab_of(tokenizer, rows)
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.texts)
    writer.add_token_types(vocab.types)
    if vocab.model == "llama":
        writer.add_token_scores(vocab.scores)
        writer.add_add_space_prefix(vocab.add_space)
        writer.add_unk_token_id(0)
    else:
        writer.add_token_merges(vocab.merges or [NO_MERGES])
    writer.add_bos_token_id(prefix_id(tokenizer))
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template.source)


def read_vocab(values: Mapping[str, Any], where: str) -> Tokenizer:
    """Return the tokenizer of a header. Raises TokenizerError for a kind that Fabella does not read."""
    texts, types = values.get(f"{KEY}tokens"), values.get(f"{KEY}token_type")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise TokenizerError(f"{where} has no vocabulary.", hint="Import the Hugging Face folder of the model instead.")
    if not isinstance(types, list) or len(types) != len(texts):
        types = [NORMAL] * len(texts)
    model, scores = values.get(f"{KEY}model"), values.get(f"{KEY}scores")
    special = [text for text, kind in zip(texts, types, strict=True) if kind in (CONTROL, UNKNOWN)]
    user_defined = [text for text, kind in zip(texts, types, strict=True) if kind == USER_DEFINED]
    eos, bos = (_token(values, texts, f"{KEY}{name}_token_id") for name in ("eos", "bos"))
    if model == "gpt2":
        library = _gpt2_library(values, texts, where)
    elif model == "llama" and isinstance(scores, list) and len(scores) == len(texts):
        add_space = values.get(f"{KEY}add_space_prefix", True) is not False
        library = _scored_library(texts, types, scores, add_space=add_space)
    else:
        raise TokenizerError(
            f"{where} has a tokenizer of model {str(model)[:40]!r}.", hint="Supported: gpt2, and llama with scores."
        )
    library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    library.add_tokens([AddedToken(text, special=False, normalized=False) for text in user_defined])
    adds_bos = values.get(f"{KEY}add_bos_token", model == "llama") is True
    tokenizer = pretrained.from_json(library.to_str().encode(), eos, where, bos_token=bos if adds_bos else "")
    template = values.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = ChatTemplate("tokenizer", template, tuple(tokenizer.special_tokens))
    return tokenizer


def _token(values: Mapping[str, Any], texts: Sequence[str], key: str) -> str:
    number = values.get(key)
    return texts[number] if isinstance(number, int) and 0 <= number < len(texts) else ""


def _gpt2_library(values: Mapping[str, Any], texts: Sequence[str], where: str) -> Library:
    written = values.get(f"{KEY}merges") or []
    merges = [tuple(str(merge).split(" ", 1)) for merge in written if written != [NO_MERGES]]
    pre = str(values.get(f"{KEY}pre", ""))
    vocab = {text: number for number, text in enumerate(texts)}
    known = all(len(pair) == 2 and {*pair, "".join(pair)} <= vocab.keys() for pair in merges)
    if len(vocab) != len(texts) or not known:
        raise TokenizerError(f"{where}: the vocabulary is damaged.", hint="Get the file again.")
    library = Library(models.BPE(vocab, merges))  # pyright: ignore[reportArgumentType] - pairs, checked above
    byte_level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    if pre in SPLITS:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
        library.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    elif pre in DIGITS_FIRST:
        digits = pre_tokenizers.Digits(individual_digits=True)
        library.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif pre in LIKE_GPT2:
        library.pre_tokenizer = byte_level
    else:
        known = ", ".join((*SPLITS, *DIGITS_FIRST, "gpt-2"))
        raise TokenizerError(f"{where} has the pretokenizer {pre[:40]!r}.", hint=f"Supported: {known}.")
    library.decoder = decoders.ByteLevel()
    return library


def _scored_library(texts: Sequence[str], types: Sequence[int], scores: Sequence[float], *, add_space: bool) -> Library:
    normal = [kind == NORMAL for kind in types]
    spaced = [text.replace(SPACE_MARK, " ") if plain else text for text, plain in zip(texts, normal, strict=True)]
    unknown = next((text for text, kind in zip(texts, types, strict=True) if kind == UNKNOWN), None)
    merges = merges_by_score({text: scores[n] for n, text in enumerate(spaced) if normal[n]})
    vocab = {text: number for number, text in enumerate(spaced)}
    library = Library(models.BPE(vocab, merges, unk_token=unknown, byte_fallback=True))
    steps: list[Any] = [normalizers.Replace(SPACE_MARK, " ")]
    library.normalizer = normalizers.Sequence([*steps, *([normalizers.Prepend(" ")] if add_space else [])])
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return library
