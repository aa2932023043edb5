"""``fabella.json``: which kind of tokenizer a folder holds, beside the tokenizer's own file."""

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
    kind: str
    end: str
    """spelling of the token that ends a document; empty where the kind alone decides it"""
    format: int = 1


def write(folder: Path, record: TokenizerMetadata, files: Mapping[str, bytes]) -> None:
    """Write a tokenizer's folder: the record and its files by name."""
    content = json.dumps(record.model_dump(), indent=1).encode() + b"\n"
    with storage_errors(folder, "writing the tokenizer"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in {**files, NAME: content}.items():
            (folder / name).write_bytes(data)


def read(folder: Path) -> TokenizerMetadata:
    """The record of a folder. Raises TokenizerError where there is none, or it is damaged."""
    path = folder / NAME
    try:
        record = TokenizerMetadata.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise TokenizerError(
            f"{folder} is no tokenizer: it has no {NAME}.",
            hint="Give a folder that 'fabella tokenizer train' or 'fabella prepare' wrote.",
        ) from None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, ValidationError) as error:
        raise TokenizerError(f"{path} is damaged: it does not say which tokenizer lies there.") from error
    if record.format != 1:
        raise TokenizerError(f"{path} has format {record.format}; this version of Fabella reads format 1.")
    return record
