"""One door to all tokenizers: train or open one from its config section, from a folder, or from a word."""

from collections.abc import Iterable
from pathlib import Path

from fabella.config.data import BPE, Bytes, Pretrained, SentencePiece, TokenizerConfig
from fabella.errors import ConfigError, TokenizerError
from fabella.tokenizers import bpe, metadata, pretrained, sentencepiece, untrusted
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.sentencepiece import SentencePieceTokenizer
from fabella.tokenizers.tokenizer import Tokenizer

KINDS = ("bytes", "bpe", "sentencepiece", "pretrained")


def train(section: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a section: trained on ``texts`` (bpe, sentencepiece), or as it is (bytes, pretrained)."""
    match section:
        case Bytes():
            return ByteTokenizer()
        case BPE():
            return bpe.train(section, texts)
        case SentencePiece():
            return sentencepiece.train(section, texts)
        case Pretrained():
            return pretrained.load(section)


def needs_text(section: TokenizerConfig) -> bool:
    """Whether ``train`` reads its texts."""
    return isinstance(section, BPE | SentencePiece)


def load(folder: Path) -> Tokenizer:
    """The tokenizer that ``save(folder)`` wrote. Raises TokenizerError where it is missing, damaged or foreign."""
    kept = metadata.read(folder)
    if kept.kind not in KINDS:
        raise TokenizerError(f"{folder} holds a tokenizer of kind {kept.kind!r}; known are {', '.join(KINDS)}.")
    if kept.kind == "bytes":
        return ByteTokenizer()
    if (folder / metadata.MODEL_FILE).exists():
        return SentencePieceTokenizer(kept.kind, untrusted.read(folder / metadata.MODEL_FILE), kept.end)
    path = folder / metadata.JSON_FILE
    return pretrained.from_json(untrusted.read(path), kept.end, str(path), kept.kind)


def open_any(place: str) -> Tokenizer:
    """A tokenizer that exists: a folder of Fabella's, a prepared or run folder, or anything ``pretrained`` takes."""
    path = Path(place).expanduser()
    for folder in (path, path / "tokenizer"):
        if (folder / metadata.NAME).is_file():
            return load(folder)
    section = parse(place)
    if needs_text(section):
        raise TokenizerError(f"{place} is a tokenizer yet to be trained.", hint="Train it: fabella tokenizer train.")
    return train(section, ())


def parse(words: str) -> TokenizerConfig:
    """``bytes``, ``bpe``, ``bpe:4096``, ``sentencepiece:8000``; anything else is a path or a hub name."""
    kind, _, size = words.partition(":")
    if kind == "bytes" and not size:
        return Bytes()
    if kind not in ("bpe", "sentencepiece"):
        return Pretrained(source=words)
    section = BPE if kind == "bpe" else SentencePiece
    try:
        return section(vocab_size=int(size)) if size else section()
    except ValueError:
        least = section.model_fields["vocab_size"].metadata[0].ge
        problem = f"{words!r} names no vocabulary size: {kind} needs a whole number from {least} to 1048576."
        raise ConfigError(problem, hint=f"For example {kind}:4096.") from None
