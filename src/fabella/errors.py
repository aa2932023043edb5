"""User-facing errors and the exit codes of the command line.

    FabellaError
    ├── UsageError             2    invalid command or argument
    │   └── ConfigError        2    invalid key or value of a config
    ├── DataError              3    training data cannot be used
    │   ├── TextError          3    text is missing, empty, binary or damaged
    │   ├── TokenizerError     3    tokenizer is missing, unsafe, damaged or does not match
    │   └── PreparedDataError  3    dataset is damaged or does not match
    ├── StorageError           4    files cannot be read or written
    │   ├── DiskFullError      4    no disk space, no quota, or a file too large
    │   ├── LockedError        4    directory is in use by another process
    │   └── CheckpointError    4    checkpoint or run directory is damaged or does not match
    │       └── UnknownFamilyError 4  model family of a run is unknown, not trusted or cannot be loaded
    ├── NumericsError          5    loss, gradient or weight is NaN or infinite
    │   └── NonFiniteStepError 5    training step with a NaN or infinite loss or gradient; it was not applied
    ├── DistributedError       6    another process of the training has exited
    ├── OutOfMemoryError       7    memory of the device is too small for a model or a training step
    └── TrainingInterrupted  130    Ctrl-C or a termination signal, after everything was saved

A message names the value and the rule it breaks; the hint names the nearest fix. ``assert`` is for bugs in Fabella.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

MAX_LISTED_CHOICES = 20
"""Longest list of choices in a hint without a near choice; a longer one would hide the message."""


class FabellaError(Exception):
    """Base class: ``message`` names the value and the rule it breaks, ``hint`` the nearest fix."""

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


class UnknownFamilyError(CheckpointError):
    pass


class NumericsError(FabellaError):
    exit_code = 5


class NonFiniteStepError(NumericsError):
    """A training step whose loss or gradient is NaN or infinite; ``step`` counts from 1."""

    def __init__(self, message: str, *, hint: str = "", step: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class OutOfMemoryError(FabellaError):
    """A model or a training step does not fit into the memory of the device."""

    exit_code = 7


class DistributedError(FabellaError):
    """Another rank has exited or does not respond. ``published``: it has said why, and prints that itself."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str = "", published: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.published = published


class TrainingInterrupted(FabellaError):  # noqa: N818 - a stop requested by the user is not an error
    exit_code = 130


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``Did you mean 'optimizer.lr'?`` for the nearest choice, else the list of choices if it is short.

    A dotted choice also matches by its last part: ``lr`` for ``optimizer.lr``.
    """
    names = sorted(choices)
    parts = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(names)}
    full_matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    nearest = full_matches or [parts[part] for part in difflib.get_close_matches(name, parts, n=1, cutoff=0.6)]
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Choose from: {', '.join(names)}." if 0 < len(names) <= MAX_LISTED_CHOICES else ""
