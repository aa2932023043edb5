"""Rank of this process.

``torchrun``, ``fabella train --devices`` or any other launcher sets rank and world size in environment variables; only
this file reads them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fabella.errors import ConfigError

REQUIRED_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by every launcher of PyTorch programs. Launchers on several machines set LOCAL_RANK and LOCAL_WORLD_SIZE too."""


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
