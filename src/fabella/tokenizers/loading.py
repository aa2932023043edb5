"""Train, load or open a tokenizer of any kind."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fabella.config.data import BPE, Bytes, Pretrained, SentencePiece, TokenizerConfig
from fabella.errors import ConfigError, TokenizerError, did_you_mean
from fabella.text.chat import template
from fabella.text.chat.template import ChatTemplate
from fabella.tokenizers import bpe, metadata, pretrained, sentencepiece
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer

KINDS = ("bytes", "bpe", "sentencepiece", "pretrained")


def train(config: TokenizerConfig, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Return the tokenizer of a config: trained on ``texts`` (bpe, sentencepiece) or existing (bytes, pretrained).

    ``special_tokens``: those of a chat template, which it has in addition to those of the config.
    """
    if isinstance(config, Pretrained):
        return pretrained.load(config, special_tokens)
    special = tuple(dict.fromkeys([*config.special_tokens, *special_tokens]))
    match config:
        case Bytes():
            return ByteTokenizer(special)
        case BPE():
            return bpe.train(config, texts, special)
        case SentencePiece():
            return sentencepiece.train(config, texts, special)


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


def chat_template_of(name: str, config: TokenizerConfig) -> ChatTemplate:
    """Return the chat template ``name`` (``data.chat_template``) for the tokenizer of a config.

    ``auto``: that of an existing tokenizer if it has one, else ``plain``. Any other name is built in, or a file with a
    Jinja template. Raises ConfigError for an unknown name, TokenizerError for a tokenizer without a template.
    """
    if name in template.names():
        return template.named(name)
    existing = None if needs_text(config) else train(config, ())
    if name in ("auto", "tokenizer"):
        own = existing.chat_template if existing else None
        if own is None and name == "tokenizer":
            raise TokenizerError(
                "The tokenizer has no chat template (data.chat_template = tokenizer).",
                hint=f"Use one of {', '.join(template.names())}: data.chat_template=chatml.",
            )
        return own or template.named(template.DEFAULT_NAME)
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"data.chat_template = {name!r} is neither a built-in chat template nor a file.",
            hint=f"{did_you_mean(name, [*template.names(), 'tokenizer'])} Or give the path of a Jinja template.",
        )
    special = existing.special_tokens if existing else getattr(config, "special_tokens", ())
    try:
        return template.ChatTemplate(path.name, path.read_text(encoding="utf-8"), tuple(special))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the chat template {path}: {error}.") from error
