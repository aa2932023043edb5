"""A model read from another format, checked and ready to become a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import CheckpointError
from fabella.models.model_config import ModelConfig
from fabella.storage import storage_errors
from fabella.storage.messages import escaped_path
from fabella.tokenizers.tokenizer import Tokenizer

MAX_CONFIG_BYTES = 16 * 2**20
"""Largest JSON file that is read as the config of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """Config, weights in float32 by the names of the parameter table, and tokenizer."""

    source: str
    """Format and architecture, for example ``Hugging Face folder, LlamaForCausalLM``."""
    config: ModelConfig
    weights: Mapping[str, NDArray[np.float32]]
    tokenizer: Tokenizer
    tokenizer_source: str
    """Path that ``tokenizer.source`` of the run names."""
    notes: list[str] = field(default_factory=list[str])
    """Sentences about what differs from the source."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError if it is missing, too large or not an object."""
    where = escaped_path(path)
    if not path.is_file():
        raise CheckpointError(f"{where} is missing.", hint="Get all files of the model.")
    with storage_errors(path, f"reading {path.name}"), path.open("rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{where} is larger than {MAX_CONFIG_BYTES:,} bytes.", hint="Get the file again.")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is damaged: it is not a JSON object.", hint="Get the file again.")
    return values
