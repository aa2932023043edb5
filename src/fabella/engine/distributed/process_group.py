"""Which of how many processes this one is, and what the processes of one training say to each other.

A *rank* is one process with one device. ``torchrun``, ``fabella train --devices`` or any other launcher tells each its
place in environment variables; this file alone reads them.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from fabella.config.training import Training
from fabella.errors import ConfigError, FabellaError, RanksError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher of PyTorch programs sets; LOCAL_RANK and LOCAL_WORLD_SIZE besides on several machines."""
GO_ON = "Go on from the newest checkpoint: fabella resume RUN, or the same command with --resume."


@dataclass(frozen=True, slots=True)
class Place:
    """One process among ``size``; on its machine it is number ``local_rank`` of ``local_size``."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    """How often the launcher has started these processes anew after one of them died."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"


def place_here() -> Place:
    """This process's place."""
    return place_in(os.environ)


def place_in(environment: Mapping[str, str]) -> Place:
    """This process's place; the only one where no launcher has set any. Raises ConfigError for half a place."""
    given = [name for name in ("RANK", "WORLD_SIZE") if environment.get(name)]
    if not given:
        return Place()
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"The environment has {given[0]}, but no {' and no '.join(missing)}: this process cannot find the others.",
            fix="Start it with torchrun or --devices, or unset " + given[0] + ".",
        )
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    place = Place(
        rank,
        size,
        _number(environment, "LOCAL_RANK", rank),
        _number(environment, "LOCAL_WORLD_SIZE", size),
        _number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )
    if not 0 <= rank < size:
        raise ConfigError(f"RANK = {rank} is none of the WORLD_SIZE = {size} processes, which count from 0.")
    return place


def _number(environment: Mapping[str, str], name: str, otherwise: int = 0) -> int:
    text = environment.get(name) or str(otherwise)
    if not text.isdecimal():
        raise ConfigError(f"The environment's {name} = {text!r} is no number.", fix="Start with torchrun or --devices.")
    return int(text)


class Ranks(Protocol):
    """The processes of one training. Every method must be called by all of them, in the same order."""

    place: Place
    """Which of them this one is."""

    def meet(self, timeout_seconds: float) -> None:
        """Make ready for training; from here on, whoever waits for another waits no longer than that."""
        ...

    def agree(self, vote: int) -> int:
        """The largest vote of any process at its last call before this one (0 at the first), the same for all.

        Nobody waits for a device, and for another process only where it is more than a step behind. Raises RanksError
        where one is gone.
        """
        ...

    def tell(self, words: str) -> str:
        """What the first process says here; the others wait for it, however long. Raises RanksError if it is gone."""
        ...


class Alone(Ranks):
    """The only process: it agrees with itself at once."""

    place = Place()

    def meet(self, timeout_seconds: float) -> None:
        """Nobody is waited for."""

    def agree(self, vote: int) -> int:
        return vote

    def tell(self, words: str) -> str:
        return words


@contextmanager
def losses_told(
    leave: Callable[[str], None],
    who_is_gone: Callable[[], str],
    kinds: tuple[type[Exception], ...],
    is_loss: Callable[[Exception], bool],
) -> Generator[None]:
    """Within: an error of ``kinds`` that ``is_loss`` of another process becomes a RanksError that says whose.

    Whatever else is raised is this process's own failure, and ``leave`` tells the others why it ends.
    """
    try:
        yield
    except Exception as error:  # raised again, whatever it is: the others only hear of it
        if not (isinstance(error, kinds) and is_loss(error)):
            leave(error.problem if isinstance(error, FabellaError) else f"{type(error).__name__}: {error}")
            raise
        leave("")
        raise RanksError(who_is_gone(), fix=GO_ON) from error


def require_shareable(training: Training, size: int) -> None:
    """Raises ConfigError where a global batch cannot be dealt evenly to ``size`` processes."""
    for first, count in training.accumulation:
        windows = training.micro_batch * count
        if windows % size:
            fewer = max(n for n in range(1, size) if _all_even(training, n))
            nearest = min(
                (n for n in range(1, training.micro_batch + size + 1) if _all_even(training, size, micro_batch=n)),
                key=lambda n: (abs(n - training.micro_batch), n),
            )
            raise ConfigError(
                f"{windows} windows in each global batch (training.micro_batch {training.micro_batch} times "
                f"accumulation {count}{f', from step {first:,} on' if first else ''}) cannot be dealt evenly to "
                f"{size} processes.",
                fix=f"Use {fewer} process{'es' if fewer > 1 else ''}, or training.micro_batch={nearest}.",
            )


def _all_even(training: Training, size: int, micro_batch: int = 0) -> bool:
    return all((micro_batch or training.micro_batch) * count % size == 0 for _, count in training.accumulation)
