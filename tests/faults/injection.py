"""Deaths and failures at chosen moments: every call that changes the disk can be watched, failed or died at."""

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
"""The functions of ``os`` that change what is on disk; ``open`` only where it makes a file."""
DIED = 86
"""Exit code of a child that died where it was told to."""


@dataclass
class CallCount:
    """What has been called so far: the function's name and what it was done to."""

    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


Before = Callable[[int, str, tuple[Any, ...]], None]


@contextmanager
def watch_disk_calls(before: Before) -> Generator[CallCount]:
    """Call ``before(number, name, arguments)`` ahead of every call that changes the disk."""
    watched = CallCount()

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_CREAT:
                number = len(watched.calls)
                watched.calls.append((name, file_name(arguments[0])))
                before(number, name, arguments)
            return function(*arguments, **options)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, watch(name, getattr(os, name)))
        yield watched


def no_action(number: int, name: str, arguments: tuple[Any, ...]) -> None:
    """Only watch."""


def file_name(argument: Any) -> str:
    """Name of the file that a path or a descriptor means."""
    if isinstance(argument, int):
        argument = Path(f"/proc/self/fd/{argument}").readlink()
    return Path(os.fsdecode(argument)).name


def die_at_call(point: int, *, torn: bool = False) -> Before:
    """Die, as by SIGKILL, ahead of call number ``point``; ``torn``: with half of its bytes written."""

    def die(number: int, name: str, arguments: tuple[Any, ...]) -> None:
        if number != point:
            return
        if torn and name == "write":
            half = arguments[1][: len(arguments[1]) // 2]
            os.writev(arguments[0], [half])  # not watched
        os._exit(DIED)

    return die


def fail_calls(number: int, functions: tuple[str, ...], *, from_call: int = 0) -> Before:
    """Raise an OSError of this errno from each call of ``functions``, but the first ``from_call`` of them."""
    seen: list[str] = []

    def fail(position: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name in functions:
            seen.append(name)
            if len(seen) > from_call:
                raise OSError(number, os.strerror(number))

    return fail


def disk_full_after(room: int) -> Before:
    """A disk with ``room`` bytes left: writes beyond that raise ENOSPC, as does the one that crosses it, torn."""
    left = [room]

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
    """Run ``action`` in a child; its exit code, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - the child must never go on as a second pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_child(child: int) -> None:
    """End a child with SIGKILL and wait until it is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
