"""What commands print: results on standard output, everything said on the way on standard error."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from fabella.errors import StorageError
from fabella.storage import json_safe
from fabella.tracking.console import ProgressLine, is_terminal, print_status

__all__ = ["ProgressLine", "is_terminal", "print_json", "print_report", "print_result", "print_status"]


class Result(Protocol):
    """What was measured, and what is to be said of how."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def as_json(self) -> Mapping[str, Any]:
        """For programs."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def print_result(text: str = "", *, end: str = "\n") -> None:
    """A result for people: standard output. Raises StorageError where that is a file and its disk is full."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:  # whoever read it has had enough
        raise
    except OSError as error:
        _close_output()
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"The result cannot be written to standard output: {reason}.", hint="Send it to a place with more space."
        ) from error


def _close_output() -> None:
    """What could not be written would be tried again, and fail again, when Python ends."""
    with contextlib.suppress(OSError):  # standard output is no file here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Mapping[str, Any]) -> None:
    """A result for programs: one JSON object on standard output. Infinite numbers, which JSON lacks, become null.

    On a terminal everything beyond ASCII is escaped: a text may hold characters that a terminal obeys.
    """
    print_result(json.dumps(json_safe(value), ensure_ascii=is_terminal(sys.stdout), allow_nan=False))


def print_report(result: AnyResult, lines: Callable[[AnyResult], Sequence[str]], *, as_json: bool) -> None:
    """A result with its remarks: one JSON object, or ``lines`` of it for people."""
    for warning in result.warnings:
        print_status(warning)
    if as_json:
        print_json(result.as_json())
    else:
        print_result("\n".join(lines(result)))
