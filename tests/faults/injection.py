"""Records the calls that change the disk, and injects a kill or an error at a chosen one."""

import errno
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHANGING = ("open", "write", "pwrite", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")
"""Functions of ``os`` that change the disk; ``open`` counts only when it creates a file."""
DIED = 86
"""Exit code of a child that ended at the injected call."""


@dataclass
class CallCount:
    """The calls so far: name of the function and name of the file."""

    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


Before = Callable[[int, str, tuple[Any, ...]], None]


@contextmanager
def watch_disk_calls(before: Before) -> Generator[CallCount]:
    """Call ``before(number, name, arguments)`` before each call that changes the disk."""
    watched = CallCount()

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                number = len(watched.calls)
                watched.calls.append((name, file_name(arguments[0])))
                before(number, name, arguments)
            return function(*arguments, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, watch(name, getattr(os, name)))
        yield watched


def no_action(number: int, name: str, arguments: tuple[Any, ...]) -> None:
    """Do nothing; only record the calls."""


def file_name(argument: Any) -> str:
    """Return the file name of a path or of an open descriptor."""
    if isinstance(argument, int):
        argument = Path(f"/proc/self/fd/{argument}").readlink()
    return Path(os.fsdecode(argument)).name


def die_at_call(point: int, *, torn: bool = False) -> Before:
    """Exit without cleanup, as after SIGKILL, before call ``point``; ``torn`` writes half of its bytes first."""

    def die(number: int, name: str, arguments: tuple[Any, ...]) -> None:
        if number != point:
            return
        if torn and name == "write":
            half = arguments[1][: len(arguments[1]) // 2]
            os.writev(arguments[0], [half])  # not watched
        os._exit(DIED)

    return die


def fail_calls(number: int, functions: tuple[str, ...], *, from_call: int = 0) -> Before:
    """Raise an OSError with this errno from each call of ``functions`` after the first ``from_call``."""
    matching: list[str] = []

    def fail(position: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name in functions:
            matching.append(name)
            if len(matching) > from_call:
                raise OSError(number, os.strerror(number))

    return fail


def disk_full_after(free_bytes: int) -> Before:
    """Simulate a disk with ``free_bytes`` left: the write that exceeds them is cut short, and raises ENOSPC."""
    left = [free_bytes]

    def fill(position: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name not in {"write", "pwrite"}:
            return
        data = arguments[1]
        if len(data) > left[0]:
            os.writev(arguments[0], [data[: left[0]]])
            left[0] = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= len(data)

    return fill


def run_in_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a child. Return its exit code, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - the child must never continue as a second pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_child(child: int) -> None:
    """End a child with SIGKILL and wait until it has exited."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
