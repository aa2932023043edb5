"""Output of commands: results on standard output, everything else on standard error."""

import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO, TypeVar

from fabella.errors import StorageError
from fabella.storage import json_safe
from fabella.tracking.console import ProgressLine, is_terminal, print_status

__all__ = [
    "ProgressLine",
    "is_terminal",
    "print_any_text",
    "print_json",
    "print_report",
    "print_result",
    "print_status",
]


def print_any_text() -> None:
    """Let standard output escape characters that its encoding lacks (Windows, a Latin-1 locale), instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # not if it was closed or replaced
        sys.stdout.reconfigure(errors="backslashreplace")


class Result(Protocol):
    """Measured values, and warnings about how they were measured."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def as_json(self) -> Mapping[str, Any]:
        """Return the values for ``--json``."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def print_result(text: str = "", *, end: str = "\n") -> None:
    """Print a result to standard output. Raise StorageError if it cannot be written, e.g. to a full disk."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:  # the reader has closed the pipe, e.g. `head`
        raise
    except OSError as error:
        _close_output()
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"Cannot write the result to standard output: {reason}.", hint="Redirect it to a disk with more space."
        ) from error


def _close_output() -> None:
    """Redirect standard output to the null device, because Python would write its buffer again at exit."""
    with contextlib.suppress(OSError):  # standard output may not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output, with null for non-finite numbers, which JSON lacks.

    Non-ASCII characters are escaped on a terminal, because a text may contain control characters, and in an encoding
    that may lack them.
    """
    escaped = is_terminal(sys.stdout) or not _is_utf8(sys.stdout)
    print_result(json.dumps(json_safe(value), ensure_ascii=escaped, allow_nan=False))


def _is_utf8(stream: TextIO | None) -> bool:
    name = getattr(stream, "encoding", None) or "utf-8"  # a stream of a test or a notebook may have none
    return codecs.lookup(name).name == "utf-8"


def print_report(result: AnyResult, lines: Callable[[AnyResult], Sequence[str]], *, as_json: bool) -> None:
    """Print the warnings of a result, and the result as one JSON object or as ``lines(result)``."""
    for warning in result.warnings:
        print_status(warning)
    if as_json:
        print_json(result.as_json())
    else:
        print_result("\n".join(lines(result)))
