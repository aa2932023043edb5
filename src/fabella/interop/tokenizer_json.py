"""Any tokenizer as the ``tokenizer.json`` of Hugging Face, whose encoding begins with the id that precedes a document.

In training, every document follows its start token or the end of another document, so that a prompt does as well: the
exported tokenizer puts this id first (BOS), and a model generates the same text elsewhere.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from fabella.config.data import SentencePiece
from fabella.errors import TokenizerError
from fabella.tokenizers import metadata
from fabella.tokenizers.bpe import END_OF_TEXT
from fabella.tokenizers.bytes import EOS_ID
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import BYTE_PIECE, LETTERS, SPACE_MARK

UNIGRAM, BPE = 1, 2
"""Values of ``model_type`` in a SentencePiece model."""


def tokenizer_json(tokenizer: Tokenizer) -> Library:
    """Return the tokenizer as one of the Hugging Face library. Raises TokenizerError if it cannot be one."""
    files = saved_files(tokenizer)
    if metadata.JSON_FILE in files:
        library: Library = Library.from_str(files[metadata.JSON_FILE].decode())
        decoder = json.loads(files[metadata.JSON_FILE]).get("decoder") or {}
        if decoder.get("type") == "WordPiece":  # without "cleanup", which removes spaces before signs
            library.decoder = decoders.WordPiece(decoder.get("prefix", "##"), cleanup=False)
    elif metadata.MODEL_FILE in files:
        own = tokenizer.kind == SentencePiece().kind
        library = _from_sentencepiece(files[metadata.MODEL_FILE], tokenizer.eos_id, own=own)
    else:
        library = _from_bytes()
    _add_special(library, tokenizer)
    first = prefix_id(tokenizer)
    token = str(library.id_to_token(first))
    library.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, first)]
    )
    return library


def is_same_text(expected: str, decoded: str) -> bool:
    """Return whether a decoded text is what Fabella decodes, but for a space before its first or after its last word.

    Fabella decodes a text as the continuation of another one. Decoders of the library take it as a whole and remove
    this space, for example that of WordPiece.
    """
    return decoded in (expected, expected.removeprefix(" "), expected.removesuffix(" "))


def write_tokenizer(tokenizer: Tokenizer, directory: Path, context_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, which AutoTokenizer loads. Raises TokenizerError."""
    library, template = tokenizer_json(tokenizer), tokenizer.chat_template
    eos = library.id_to_token(tokenizer.eos_id)
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": library.id_to_token(prefix_id(tokenizer)),
        "eos_token": eos,
        "pad_token": eos,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        # A special token in a text is text, as in Fabella, unless a chat template writes special tokens.
        "split_special_tokens": template is None,
    }
    if template is not None:
        # A conversation is a document: in Fabella, it follows the first id as well.
        first = "" if "bos_token" in template.source else "{{ bos_token }}"
        values["chat_template"] = first + template.source
    for name, content in (("tokenizer.json", to_json(library)), ("tokenizer_config.json", values)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def _add_special(library: Library, tokenizer: Tokenizer) -> None:
    """Mark the special tokens, those of a chat template among them. Raises TokenizerError if an id differs."""
    by_id = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, _ in by_id])
    wrong = [token for token, number in by_id if library.token_to_id(token) != number]
    if wrong:
        raise TokenizerError(
            f"The special token {wrong[0]!r} has another id in tokenizer.json.",
            hint="Export to another format: --to safetensors.",
        )


def saved_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files that ``save`` writes, by name."""
    with tempfile.TemporaryDirectory(prefix="fabella-") as directory:
        tokenizer.save(Path(directory))
        return {file.name: file.read_bytes() for file in Path(directory).iterdir()}


def plain_added_tokens(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the added tokens of ``tokenizer.json`` that are not special: a text that spells one has its id."""
    values = json.loads(saved_files(tokenizer).get(metadata.JSON_FILE, b"{}"))
    return [token for token in values.get("added_tokens") or [] if not token["special"]]


def _from_bytes() -> Library:
    """Return the byte tokenizer as a BPE without merges: the letter of each byte has the byte's value as its id."""
    vocab = {letter: value for letter, value in LETTERS.items() if value != EOS_ID} | {END_OF_TEXT: EOS_ID}
    library = Library(models.BPE(vocab, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return library


def _from_sentencepiece(model: bytes, eos_id: int, *, own: bool) -> Library:
    """Return a SentencePiece model with spaces in its tokens instead of the mark ▁, which a text may contain.

    ``own``: the character ▁ of a text is encoded as its bytes, as Fabella's own models do; others read it as a space.
    """
    processor = SentencePieceProcessor(model_proto=model)
    settings = _settings(model)
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    normal = [
        not (processor.is_control(n) or processor.is_unknown(n) or processor.is_byte(n)) for n in range(len(pieces))
    ]
    tokens = [piece.replace(SPACE_MARK, " ") if plain else piece for piece, plain in zip(pieces, normal, strict=True)]
    scores = [processor.get_score(number) for number in range(len(pieces))]
    unknown = processor.unk_id()
    if settings["model_type"] == BPE:
        vocab = {token: number for number, token in enumerate(tokens)}
        mergeable = {token: scores[number] for number, token in enumerate(tokens) if normal[number]}
        bpe: Any = models.BPE(
            vocab, merges_by_score(mergeable), unk_token=tokens[unknown], byte_fallback=bool(settings["byte_fallback"])
        )
        library = Library(bpe)
    elif settings["model_type"] == UNIGRAM:
        entries = list(zip(tokens, scores, strict=True))
        library = Library(models.Unigram(entries, unk_id=unknown, byte_fallback=bool(settings["byte_fallback"])))
        no_text = [token for token, plain in zip(tokens, normal, strict=True) if not plain]
        if pattern := cut_pattern(no_text, [token for token, plain in zip(tokens, normal, strict=True) if plain]):
            library.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    else:
        raise TokenizerError(
            "This SentencePiece model is neither BPE nor unigram; tokenizer.json has no such model.",
            hint="Export to another format, or train with tokenizer.kind=bpe.",
        )
    steps: list[Any] = [] if own else [normalizers.Replace(SPACE_MARK, " ")]
    if settings["remove_extra_whitespaces"]:
        raise TokenizerError(
            "This SentencePiece model removes spaces from its text, which tokenizer.json cannot express equally.",
            hint="Export to another format, or train with tokenizer.kind=bpe.",
        )
    steps += [normalizers.Prepend(" ")] if settings["add_dummy_prefix"] else []
    if steps:
        library.normalizer = normalizers.Sequence(steps)
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = [tokens[n] for n in range(len(tokens)) if processor.is_control(n) or n in (unknown, eos_id)]
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return library


def cut_pattern(special: Sequence[str], pieces: Sequence[str]) -> str:
    """Return a pattern that cuts a text within ``special`` tokens that it spells, where no piece crosses the cut.

    The unigram model of the library takes the text ``</s>`` for the token; SentencePiece reads it as text.
    """
    neighbors = {piece[middle - 1 : middle + 1] for piece in pieces for middle in range(1, len(piece))}
    patterns: dict[str, None] = {}
    for token in special:
        middle = next((m for m in range(1, len(token)) if token[m - 1 : m + 1] not in neighbors), 0)
        if not middle:
            continue
        if BYTE_PIECE.fullmatch(token) and middle <= 3:  # one pattern for all bytes
            patterns[f"(?<={'<0x'[:middle]})(?={'<0x'[middle:]}[0-9A-F]{{2}}>)"] = None
        else:
            patterns[f"(?<={re.escape(token[:middle])})(?={re.escape(token[middle:])})"] = None
    return "|".join(patterns)


def sentencepiece_of(tokenizer: Tokenizer) -> list[tuple[bytes, float]] | None:
    """Return text and score of every id of a BPE with scores, with spaces for ▁; None for any other tokenizer.

    A BPE with merges, as an imported tokenizer of llama2.c is, gets the scores of its order.
    """
    files = saved_files(tokenizer)
    if metadata.MODEL_FILE in files:
        processor = SentencePieceProcessor(model_proto=files[metadata.MODEL_FILE])
        if _settings(files[metadata.MODEL_FILE])["model_type"] != BPE:
            return None
        numbers = range(processor.get_piece_size())
        pieces = [processor.id_to_piece(number).replace(SPACE_MARK, " ") for number in numbers]
        return [(piece.encode(), processor.get_score(n)) for n, piece in zip(numbers, pieces, strict=True)]
    values = json.loads(files.get(metadata.JSON_FILE, b"{}"))
    model = values.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return None
    ranks: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge), -float(rank))
    texts = {number: text for text, number in model["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in values.get("added_tokens") or []}
    numbers = range(max(texts) + 1)
    return [(texts.get(number, "").encode(), ranks.get(texts.get(number, ""), 0.0)) for number in numbers]


def merges_by_score(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the merges of a BPE that is given by the scores of its tokens: every split of a token, the best first."""
    merges: list[tuple[float, int, tuple[str, str]]] = []
    for token, score in scores.items():
        for middle in range(1, len(token)):
            if token[:middle] in scores and token[middle:] in scores:
                merges.append((-score, middle, (token[:middle], token[middle:])))
    return [pair for _, _, pair in sorted(merges, key=lambda merge: merge[:2])]


def _settings(model: bytes) -> dict[str, int]:
    """Return the settings of a SentencePiece model that decide its ids; absent ones have the defaults of its schema."""
    top = _fields(model)
    trainer = _fields(b"".join(value for value in top.get(2, []) if isinstance(value, bytes)))
    normalizer = _fields(b"".join(value for value in top.get(3, []) if isinstance(value, bytes)))

    def number(fields: dict[int, list[int | bytes]], key: int, default: int) -> int:
        value = fields.get(key, [default])[-1]
        return value if isinstance(value, int) else default

    return {
        "model_type": number(trainer, 3, UNIGRAM),
        "byte_fallback": number(trainer, 35, 0),
        "add_dummy_prefix": number(normalizer, 3, 1),
        "remove_extra_whitespaces": number(normalizer, 4, 1),
    }


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    """Return field number → values of a protobuf message; the library has parsed it, so that it is well-formed."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            value, position = data[position : position + size], position + size
        else:
            size = 8 if kind == 1 else 4
            value, position = data[position : position + size], position + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        result |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return result, position


def to_json(library: Library) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``."""
    return json.loads(library.to_str())
