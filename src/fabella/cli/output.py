"""What commands print: results on standard output, everything said on the way on standard error."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def say(text: str = "", *, end: str = "\n") -> None:
    """A remark, a warning or progress: standard error, so that a result can be piped."""
    print(text, file=sys.stderr, end=end, flush=True)


def show(text: str = "", *, end: str = "\n") -> None:
    """A result for people: standard output."""
    print(text, end=end, flush=True)


def show_json(value: Mapping[str, Any]) -> None:
    """A result for programs: one JSON object on standard output. Infinite numbers, which JSON lacks, become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class ProgressLine:
    """One line that is rewritten in place on a terminal; on anything else, a plain line at most every tenth call."""

    def __init__(self, plain_every: int = 10) -> None:
        self.terminal = sys.stderr.isatty()
        self.plain_every = plain_every
        self._calls = 0
        self._width = 0

    def update(self, text: str) -> None:
        """Replace the line (terminal), or print one of ``plain_every`` calls, the first always (elsewhere)."""
        if self.terminal:
            say("\r" + text.ljust(self._width), end="")
            self._width = len(text)
        elif self._calls % self.plain_every == 0:
            say(text)
        self._calls += 1

    def close(self) -> None:
        """Leave the last line standing."""
        if self.terminal and self._width:
            say()
        self._width = 0
