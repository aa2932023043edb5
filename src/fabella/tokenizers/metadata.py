"""``fabella.json``: kind and EOS token of a saved tokenizer, next to its own file."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from fabella.config.base import ConfigModel
from fabella.errors import TokenizerError
from fabella.storage import storage_errors

NAME = "fabella.json"
JSON_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"


class TokenizerMetadata(ConfigModel):
    """Content of ``fabella.json``."""

    kind: str
    """bytes, bpe, sentencepiece or pretrained"""
    eos_token: str
    """EOS token; empty if the kind decides it"""
    format: int = 1


def write(directory: Path, record: TokenizerMetadata, files: Mapping[str, bytes]) -> None:
    """Write the directory of a tokenizer: the metadata and its files by name. Raises StorageError."""
    content = json.dumps(record.model_dump(), indent=1).encode() + b"\n"
    with storage_errors(directory, "writing the tokenizer"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in {**files, NAME: content}.items():
            (directory / name).write_bytes(data)


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
