"""Results as standard JSON, which has no NaN and no infinity."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabella.storage.atomic_file import atomic_write


def json_safe(value: Any) -> Any:
    """Return ``value`` with NaN and infinity replaced by None, keys as strings and tuples as lists, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a result as indented JSON, atomically. Raises StorageError."""
    atomic_write(path, (json.dumps(json_safe(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
