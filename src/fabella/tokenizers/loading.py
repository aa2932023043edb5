"""Train, load or open a tokenizer of any kind."""

from collections.abc import Iterable
from pathlib import Path

from fabella.config.data import BPE, Bytes, Pretrained, SentencePiece, TokenizerConfig
from fabella.errors import ConfigError, TokenizerError
from fabella.tokenizers import bpe, metadata, pretrained, sentencepiece
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer

KINDS = ("bytes", "bpe", "sentencepiece", "pretrained")


def train(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of a config: trained on ``texts`` (bpe, sentencepiece) or existing (bytes, pretrained)."""
    match config:
        case Bytes():
            return ByteTokenizer()
        case BPE():
            return bpe.train(config, texts)
        case SentencePiece():
            return sentencepiece.train(config, texts)
        case Pretrained():
            return pretrained.load(config)


def needs_text(config: TokenizerConfig) -> bool:
    """Return True if ``train`` reads its texts."""
    return isinstance(config, BPE | SentencePiece)


def load(directory: Path) -> Tokenizer:
    """Load a tokenizer that ``save`` wrote. Raises TokenizerError if it is missing, damaged or of an unknown kind."""
    record = metadata.read(directory)
    if record.kind not in KINDS:
        raise TokenizerError(
            f"Unknown kind of tokenizer {record.kind!r} in {directory}. Choose from: {', '.join(KINDS)}."
        )
    return pretrained.from_saved(directory)


def open_any(source: str) -> Tokenizer:
    """Open an existing tokenizer: its directory, that of a dataset or a run, or any ``pretrained`` source."""
    path = Path(source).expanduser()
    for directory in (path, path / "tokenizer"):
        if (directory / metadata.NAME).is_file():
            return load(directory)
    config = parse(source)
    if needs_text(config):
        raise TokenizerError(f"Tokenizer {source} is not trained yet.", hint="Train it with fabella tokenizer train.")
    return train(config, ())


def parse(text: str) -> TokenizerConfig:
    """Parse ``bytes``, ``bpe``, ``bpe:4096`` or ``sentencepiece:8000``; any other text is a path or a hub name."""
    kind, _, size = text.partition(":")
    if kind == "bytes" and not size:
        return Bytes()
    if kind not in ("bpe", "sentencepiece"):
        return Pretrained(source=text)
    config_class = BPE if kind == "bpe" else SentencePiece
    try:
        return config_class(vocab_size=int(size)) if size else config_class()
    except ValueError:
        least = config_class.model_fields["vocab_size"].metadata[0].ge
        message = f"Cannot parse the vocabulary size of {text!r}. {kind} takes an integer from {least} to 1048576."
        raise ConfigError(message, hint=f"For example {kind}:4096.") from None
