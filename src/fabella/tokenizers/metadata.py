"""``fabella.json``: kind and EOS token of a saved tokenizer, next to its own file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from fabella.config.base import ConfigModel
from fabella.errors import TokenizerError
from fabella.storage import storage_errors
from fabella.text.chat.template import ChatTemplate

NAME = "fabella.json"
JSON_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"


class TokenizerMetadata(ConfigModel):
    """Content of ``fabella.json``."""

    kind: str
    """bytes, bpe, sentencepiece or pretrained"""
    eos_token: str
    """EOS token; empty if the kind decides it"""
    bos_token: str = ""
    """BOS token, which starts each document; empty without one"""
    special_tokens: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Special tokens that the tokenizer's own file does not mark as such"""
    chat_template: str = ""
    """Name of the chat template; its text is in ``tokenizer_config.json``"""
    template_tokens: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Special tokens that the chat template writes"""
    format: int = 1


CONFIG_FILE = "tokenizer_config.json"


def write(
    directory: Path,
    record: TokenizerMetadata,
    files: Mapping[str, bytes],
    chat_template: ChatTemplate | None = None,
) -> None:
    """Write the directory of a tokenizer: the metadata and its files by name. Raises StorageError.

    The chat template is in ``tokenizer_config.json``, where Transformers and servers look for it.
    """
    if chat_template:
        about = {"chat_template": chat_template.name, "template_tokens": chat_template.special_tokens}
        record = record.model_copy(update=about)
        config = {"chat_template": chat_template.source, "eos_token": record.eos_token, "bos_token": record.bos_token}
        files = {**files, CONFIG_FILE: _dump({key: value for key, value in config.items() if value})}
    content = _dump(record.model_dump())
    with storage_errors(directory, "writing the tokenizer"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in {**files, NAME: content}.items():
            (directory / name).write_bytes(data)


def _dump(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def read(directory: Path) -> TokenizerMetadata:
    """Read the metadata of a directory. Raises TokenizerError if it is missing or damaged."""
    path = directory / NAME
    try:
        record = TokenizerMetadata.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise TokenizerError(
            f"{directory} is not a tokenizer directory: it has no {NAME}.",
            hint="Give a directory written by fabella tokenizer train or fabella prepare.",
        ) from None
    except OSError as error:
        raise TokenizerError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError, ValidationError) as error:
        raise TokenizerError(f"{path} is damaged: it does not name a kind of tokenizer.") from error
    if record.format != 1:
        raise TokenizerError(f"{path} has format {record.format}; this version of Fabella reads format 1.")
    return record
