"""The processes of one training on ``jax.distributed``: they meet, agree step by step, and notice who is gone.

The first process keeps a service, through which they say things to each other; numbers of the training itself go from
device to device. Each process drives all devices that it finds.
"""

import ctypes
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src import distributed

from fabella.config.training import COLLECTIVE_TIMEOUT_SECONDS
from fabella.engine.distributed.process_group import RESUME_HINT, ProcessGroup, RankInfo, translate_peer_failures
from fabella.errors import ConfigError, DistributedError

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
"""How long the others are given to say why they left, once a connection to one of them broke."""
SILENCE_SECONDS = 60
"""Without a sign of life after which JAX takes a process for dead, and ends all others."""
GOODBYE_SECONDS = 10
"""That JAX lets a process wait for all others when it ends, which one that failed does in vain."""


class JaxProcessGroup(ProcessGroup):
    """What processes agree on goes through JAX's own service, so that no step waits for a device to know it."""

    def __init__(self, place: RankInfo) -> None:
        """``jax.distributed`` must have been initialized."""
        self.rank_info = place
        self.store: Any = distributed.global_state.client  # JAX's own connection, which has no public name
        self.service: Any = distributed.global_state.service
        self.timeout_seconds = COLLECTIVE_TIMEOUT_SECONDS
        self._asked = self._told = 0

    def init_collectives(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds

    def poll_max(self, vote: int) -> int:
        """The first process collects the votes of one call while the next step is taken, and all read what it found."""
        number, self._asked = self._asked, self._asked + 1
        self.store.key_value_set(f"vote/{number}/{self.rank_info.rank}", str(vote))
        if number == 0:
            return 0
        before = number - 1
        if self.rank_info.is_main:
            votes = [int(self._get(f"vote/{before}/{rank}")) for rank in range(self.rank_info.world_size)]
            self.store.key_value_set(f"agreed/{before}", str(max(votes)))
            for old in (f"vote/{before}/", f"agreed/{before - LAG}"):  # all have read this one long ago
                self.store.key_value_delete(old)
            return max(votes)
        return int(self._get(f"agreed/{before}"))

    def broadcast(self, words: str) -> str:
        key = f"told/{self._told}"
        self._told += 1
        if self.rank_info.is_main:
            self.store.key_value_set(key, words)
            return words
        return self._get(key, for_ever=True)

    def destroy(self) -> None:
        """Wait until all have done their work, however long the first still writes."""
        self.store.key_value_set(f"done/{self.rank_info.rank}", "")
        for rank in range(self.rank_info.world_size):
            self._get(f"done/{rank}", for_ever=True)

    def _get(self, key: str, *, for_ever: bool = False) -> str:
        """What another process says, once it does. Raises RanksError where one is gone or takes too long."""
        until = time.monotonic() + self.timeout_seconds
        while True:
            try:
                return self.store.blocking_key_value_get(key, int(1000 * LOOK_SECONDS))
            except jax.errors.JaxRuntimeError as error:
                late = not for_ever and time.monotonic() > until
                if late or self._left() or "DEADLINE_EXCEEDED" not in str(error):
                    raise DistributedError(self._who_is_gone(), hint=RESUME_HINT) from error

    @contextmanager
    def peer_failures(self) -> Generator[None]:
        """Within: where another process is lost, RanksError says which; one that fails tells the others why."""
        kinds = (RuntimeError, ValueError)  # JAX gives broken connections either name
        with translate_peer_failures(self._leave, self._who_is_gone, kinds, _is_loss):
            yield

    def _leave(self, reason: str) -> None:
        """Tell the others why this one ends; nothing to be done where the one that keeps the words is gone itself."""
        try:
            self.store.key_value_set(f"left/{self.rank_info.rank}", reason[:500] or " ", allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            return

    def abandon(self) -> None:
        """Keep JAX from waiting for all others when this process ends: one of them may never come.

        Its connections do so when they are put away, so these never are; the system closes them.
        """
        if self.rank_info.is_main:  # it keeps the words that the others look for now, and JAX ends whoever misses it
            until = time.monotonic() + GOODBYE_SECONDS
            while len(self._left()) < self.rank_info.world_size and time.monotonic() < until:
                time.sleep(LOOK_SECONDS / 10)
            time.sleep(PATIENCE_SECONDS)
        for connection in (self.store, self.service):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        distributed.global_state.client = distributed.global_state.service = None

    def _left(self) -> dict[int, str]:
        """Who has left, and why, where they said it."""
        try:
            words = self.store.key_value_dir_get("left/")
        except jax.errors.JaxRuntimeError:
            return {0: "its service does not answer"}
        return {int(key.rsplit("/", 1)[1]): why.strip() for key, why in words}

    def _who_is_gone(self) -> str:
        """One sentence: why another process ended, or that it did."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            for rank, why in self._left().items():
                if why and rank != self.rank_info.rank:
                    return f"Process {rank} of {self.rank_info.world_size} has stopped: {why}"
            time.sleep(LOOK_SECONDS / 10)
        return f"Another of the {self.rank_info.world_size} processes does not answer: it was killed, hangs, or its machine is down."


LAG = 4
"""Calls after which an agreement has been read by all: none is more than two behind."""
SIGNS = ("gloo", "Gloo", "Connection closed by peer", "Connection reset", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _is_loss(error: Exception) -> bool:
    return any(sign in str(error) for sign in SIGNS)


@contextmanager
def init_distributed(place: RankInfo, device: str) -> Generator[JaxProcessGroup]:
    """This process among the others, for as long as the block lasts. Raises RanksError where one is lost.

    Must come before anything else that JAX is asked for. Several processes of one machine take a GPU each. Raises
    ConfigError for processes that torchrun has started.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        raise ConfigError(
            "torchrun keeps MASTER_PORT for itself, where engine=jax needs it.",
            hint="Start one process a machine with its RANK and WORLD_SIZE: docs/guide-engines.md.",
        )
    own = [place.local_rank] if place.local_world_size > 1 and device != "cpu" else None
    try:
        jax.distributed.initialize(
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            num_processes=place.world_size,
            process_id=place.rank,
            local_device_ids=own,
            cluster_detection_method="deactivate",
            initialization_timeout=int(COLLECTIVE_TIMEOUT_SECONDS),
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=GOODBYE_SECONDS,
        )
    except RuntimeError as error:
        raise DistributedError(f"{str(place).capitalize()} did not find the others: {error}") from error
    group = JaxProcessGroup(place)
    try:
        with group.peer_failures(), _libraries_on_standard_error():
            jax.devices()  # each process waits here for all others: none may ask for a device on its own later
            yield group
            group.destroy()
    except BaseException:
        group.abandon()
        raise
    jax.distributed.shutdown()


@contextmanager
def _libraries_on_standard_error() -> Generator[None]:
    """Within: what is printed goes to standard error. Gloo says there whom it found, where results belong."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
