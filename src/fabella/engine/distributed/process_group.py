"""Rank of this process, and the process group of a training.

``torchrun``, ``fabella train --devices`` or any other launcher sets rank and world size in environment variables; only
this file reads them.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from fabella.config.training import TrainingConfig
from fabella.errors import ConfigError, DistributedError, FabellaError

REQUIRED_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by every launcher of PyTorch programs. Launchers on several machines set LOCAL_RANK and LOCAL_WORLD_SIZE too."""
RESUME_HINT = "Resume from the latest checkpoint with: fabella resume RUN"


@dataclass(frozen=True, slots=True)
class RankInfo:
    """Rank and world size of a process, in total and on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restart_count: int = 0
    """Number of times the launcher has restarted these processes after one of them died."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes and prints."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def current_rank() -> RankInfo:
    """Return rank and world size of this process."""
    return rank_from_env(os.environ)


def rank_from_env(environment: Mapping[str, str]) -> RankInfo:
    """Read the variables of a launcher; a single process if there are none. Raises ConfigError for incomplete ones."""
    present = [name for name in ("RANK", "WORLD_SIZE") if environment.get(name)]
    if not present:
        return RankInfo()
    missing = [name for name in REQUIRED_VARIABLES if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"The environment has {present[0]}, but no {' and no '.join(missing)}: the ranks cannot connect.",
            hint="Start it with torchrun or --devices, or unset " + present[0] + ".",
        )
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    rank_info = RankInfo(
        rank,
        size,
        _number(environment, "LOCAL_RANK", rank),
        _number(environment, "LOCAL_WORLD_SIZE", size),
        _number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )
    if not 0 <= rank < size:
        raise ConfigError(f"RANK = {rank} is not valid: with WORLD_SIZE = {size} it must be from 0 to {size - 1}.")
    return rank_info


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(
            f"Cannot parse the environment variable {name} = {text!r}: it must be an integer from 0.",
            hint="Start with torchrun or --devices.",
        )
    return int(text)


class ProcessGroup(Protocol):
    """The ranks of one training. All of them must call the same methods in the same order."""

    rank_info: RankInfo
    """Rank of this process."""

    def init_collectives(self, timeout_seconds: float) -> None:
        """Initialize the collectives; from here on, waiting longer than ``timeout_seconds`` is an error."""
        ...

    def poll_max(self, vote: int) -> int:
        """Return the maximum vote of all ranks at the previous call; 0 at the first.

        Never waits for a device, and blocks only if a rank lags by more than one step. Raises DistributedError if a
        rank has exited.
        """
        ...

    def broadcast(self, text: str) -> str:
        """Return the text of rank 0, waiting without a timeout. Raises DistributedError if rank 0 has exited."""
        ...


class SingleProcess(ProcessGroup):
    """The process group of a training in a single process."""

    rank_info = RankInfo()

    def init_collectives(self, timeout_seconds: float) -> None:
        """Do nothing: there is no other rank to wait for."""

    def poll_max(self, vote: int) -> int:
        return vote

    def broadcast(self, text: str) -> str:
        return text


@contextmanager
def translate_peer_failures(
    leave: Callable[[str], None],
    describe_loss: Callable[[], str],
    kinds: tuple[type[Exception], ...],
    is_loss: Callable[[Exception], bool],
) -> Generator[None]:
    """Turn errors caused by the exit of another rank into a DistributedError.

    ``is_loss`` recognizes them among the errors of ``kinds``, and ``describe_loss`` returns the message. Before any
    other error is raised again, ``leave`` publishes its message to the other ranks.
    """
    try:
        yield
    except Exception as error:  # always raised again, after the other ranks know its message
        if not (isinstance(error, kinds) and is_loss(error)):
            leave(error.message if isinstance(error, FabellaError) else f"{type(error).__name__}: {error}")
            raise
        leave("")
        raise DistributedError(describe_loss(), hint=RESUME_HINT) from error


def require_divisible(training: TrainingConfig, size: int) -> None:
    """Raise ConfigError unless ``size`` divides every global batch of the training."""
    for first, count in training.gradient_accumulation:
        batch_size = training.micro_batch_size * count
        if batch_size % size:
            fewer = max(n for n in range(1, size) if _all_even(training, n))
            nearest = min(
                (n for n in range(1, training.micro_batch_size + size + 1) if _all_even(training, size, micro_batch=n)),
                key=lambda n: (abs(n - training.micro_batch_size), n),
            )
            raise ConfigError(
                f"A global batch of {batch_size} (training.micro_batch_size {training.micro_batch_size} times "
                f"gradient_accumulation {count}{f', from step {first:,}' if first else ''}) is not a multiple of "
                f"{size} processes.",
                hint=f"Use {fewer} process{'es' if fewer > 1 else ''}, or training.micro_batch_size={nearest}.",
            )


def _all_even(training: TrainingConfig, size: int, micro_batch: int = 0) -> bool:
    return all(
        (micro_batch or training.micro_batch_size) * count % size == 0 for _, count in training.gradient_accumulation
    )
