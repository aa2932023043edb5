"""The process group of a training."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from fabella.config.training import TrainingConfig
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError, DistributedError, FabellaError

MAX_REASON_CHARACTERS = 500
"""Longest reason that an exiting rank publishes."""
RESUME_HINT = "Resume from the latest checkpoint with: fabella resume RUN"


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

    def main_failed_with(self, message: str) -> bool:
        """Return whether rank 0 exits because of an error with the same message. Waits for it for two seconds."""
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

    def main_failed_with(self, message: str) -> bool:
        return False


@contextmanager
def translate_peer_failures(
    leave: Callable[[str], None],
    lost: Callable[[], DistributedError],
    kinds: tuple[type[Exception], ...],
    is_loss: Callable[[Exception], bool],
) -> Generator[None]:
    """Turn errors caused by the exit of another rank into a DistributedError.

    ``is_loss`` recognizes them among the errors of ``kinds``, and ``lost`` returns the error. Before any other error
    is raised again, ``leave`` publishes its message to the other ranks.
    """
    try:
        yield
    except Exception as error:  # always raised again, after the other ranks know its message
        if not (isinstance(error, kinds) and is_loss(error)):
            leave(error.message if isinstance(error, FabellaError) else f"{type(error).__name__}: {error}")
            raise
        leave("")
        raise lost() from error


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
