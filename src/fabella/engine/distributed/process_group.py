"""Which of how many processes this one is, and what the processes of one training say to each other.

A *rank* is one process with one device. ``torchrun``, ``fabella train --devices`` or any other launcher tells each its
place in environment variables; this file alone reads them.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from fabella.config.training import TrainingConfig
from fabella.errors import ConfigError, DistributedError, FabellaError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher of PyTorch programs sets; LOCAL_RANK and LOCAL_WORLD_SIZE besides on several machines."""
RESUME_HINT = "Go on from the newest checkpoint: fabella resume RUN, or the same command with --resume."


@dataclass(frozen=True, slots=True)
class RankInfo:
    """One process among ``size``; on its machine it is number ``local_rank`` of ``local_size``."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restart_count: int = 0
    """How often the launcher has started these processes anew after one of them died."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def current_rank() -> RankInfo:
    """This process's place."""
    return rank_from_env(os.environ)


def rank_from_env(environment: Mapping[str, str]) -> RankInfo:
    """This process's place; the only one where no launcher has set any. Raises ConfigError for half a place."""
    given = [name for name in ("RANK", "WORLD_SIZE") if environment.get(name)]
    if not given:
        return RankInfo()
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"The environment has {given[0]}, but no {' and no '.join(missing)}: this process cannot find the others.",
            hint="Start it with torchrun or --devices, or unset " + given[0] + ".",
        )
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    place = RankInfo(
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
        raise ConfigError(
            f"The environment's {name} = {text!r} is no number.", hint="Start with torchrun or --devices."
        )
    return int(text)


class ProcessGroup(Protocol):
    """The processes of one training. Every method must be called by all of them, in the same order."""

    rank_info: RankInfo
    """Which of them this one is."""

    def init_collectives(self, timeout_seconds: float) -> None:
        """Make ready for training; from here on, whoever waits for another waits no longer than that."""
        ...

    def poll_max(self, vote: int) -> int:
        """The largest vote of any process at its last call before this one (0 at the first), the same for all.

        Nobody waits for a device, and for another process only where it is more than a step behind. Raises RanksError
        where one is gone.
        """
        ...

    def broadcast(self, words: str) -> str:
        """What the first process says here; the others wait for it, however long. Raises RanksError if it is gone."""
        ...


class SingleProcess(ProcessGroup):
    """The only process: it agrees with itself at once."""

    rank_info = RankInfo()

    def init_collectives(self, timeout_seconds: float) -> None:
        """Nobody is waited for."""

    def poll_max(self, vote: int) -> int:
        return vote

    def broadcast(self, words: str) -> str:
        return words


@contextmanager
def translate_peer_failures(
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
            leave(error.message if isinstance(error, FabellaError) else f"{type(error).__name__}: {error}")
            raise
        leave("")
        raise DistributedError(who_is_gone(), hint=RESUME_HINT) from error


def require_divisible(training: TrainingConfig, size: int) -> None:
    """Raises ConfigError where a global batch cannot be dealt evenly to ``size`` processes."""
    for first, count in training.gradient_accumulation:
        windows = training.micro_batch_size * count
        if windows % size:
            fewer = max(n for n in range(1, size) if _all_even(training, n))
            nearest = min(
                (n for n in range(1, training.micro_batch_size + size + 1) if _all_even(training, size, micro_batch=n)),
                key=lambda n: (abs(n - training.micro_batch_size), n),
            )
            raise ConfigError(
                f"{windows} windows in each global batch (training.micro_batch_size {training.micro_batch_size} times "
                f"accumulation {count}{f', from step {first:,} on' if first else ''}) cannot be dealt evenly to "
                f"{size} processes.",
                hint=f"Use {fewer} process{'es' if fewer > 1 else ''}, or training.micro_batch_size={nearest}.",
            )


def _all_even(training: TrainingConfig, size: int, micro_batch: int = 0) -> bool:
    return all(
        (micro_batch or training.micro_batch_size) * count % size == 0 for _, count in training.gradient_accumulation
    )
