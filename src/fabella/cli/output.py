"""What commands print: results on standard output, everything said on the way on standard error."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from fabella.telemetry.terminal import ProgressLine, say

__all__ = ["ProgressLine", "say", "show", "show_json"]


def show(text: str = "", *, end: str = "\n") -> None:
    """A result for people: standard output."""
    print(text, end=end, flush=True)


def show_json(value: Mapping[str, Any]) -> None:
    """A result for programs: one JSON object on standard output. Infinite numbers, which JSON lacks, become null.

    On a terminal everything beyond ASCII is escaped: a text may hold characters that a terminal obeys.
    """
    print(json.dumps(_finite(value), ensure_ascii=sys.stdout.isatty(), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
