"""Every error a user can meet, and the code the command line ends with.

    FabellaError
    ├── UsageError            2    a command or an argument that cannot be taken
    │   └── ConfigError       2    a key or a value of a config
    ├── DataError             3    what is read and learned from
    │   ├── TextError         3    text that is missing, empty, binary or damaged
    │   ├── TokenizerError    3    a tokenizer that is missing, foreign or does not fit
    │   └── PreparedDataError 3    a prepared folder that is damaged or does not fit
    ├── StorageError          4    what is written and kept
    │   ├── DiskFullError     4    no space, no quota, or a file too large
    │   ├── LockedError       4    a folder that another process is using
    │   └── CheckpointError   4    a checkpoint or run folder that is damaged or foreign
    ├── NumericsError         5    a loss, gradient or weight that is not finite
    │   └── NotFinite         5    the same of one step, which was not taken
    ├── RanksError            6    another process of the same training is gone
    └── Interrupted         130    Ctrl-C or a termination signal, after everything was saved

Each says what is wrong (with the value), the rule it breaks, and the nearest fix. ``assert`` is kept
for bugs of our own.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

LONGEST_LIST = 20
"""Choices that are listed when none is near; more would hide the problem."""


class FabellaError(Exception):
    """``problem`` says what is wrong and which rule it breaks; ``fix`` what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".rstrip())
        self.message = message
        self.hint = hint


class UsageError(FabellaError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(FabellaError):
    exit_code = 3


class TextError(DataError):
    pass


class TokenizerError(DataError):
    pass


class PreparedDataError(DataError):
    pass


class StorageError(FabellaError):
    exit_code = 4


class DiskFullError(StorageError):
    pass


class LockedError(StorageError):
    pass


class CheckpointError(StorageError):
    pass


class NumericsError(FabellaError):
    exit_code = 5


class NonFiniteStepError(NumericsError):
    """``step``: its number, counted from 1."""

    def __init__(self, message: str, *, hint: str = "", step: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class DistributedError(FabellaError):
    exit_code = 6


class TrainingInterrupted(FabellaError):  # noqa: N818 - being stopped by the user is no error
    exit_code = 130


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``Did you mean 'optimizer.lr'?`` for the nearest of ``choices``; otherwise the list of them, if it is short.

    A dotted choice is also found by its last part alone: ``lr`` for ``optimizer.lr``.
    """
    names = sorted(choices)
    parts = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(names)}
    whole = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    nearest = whole or [parts[part] for part in difflib.get_close_matches(name, parts, n=1, cutoff=0.6)]
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Choose from: {', '.join(names)}." if 0 < len(names) <= LONGEST_LIST else ""
