"""Process group on ``jax.distributed``, which notices ranks that exit.

Rank 0 runs JAX's key-value service, which carries votes and texts; tensors go from device to device. Each process
uses all devices that it finds.
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
from fabella.engine.distributed.process_group import (
    MAX_REASON_CHARACTERS,
    RESUME_HINT,
    ProcessGroup,
    translate_peer_failures,
)
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError, DistributedError

POLL_SECONDS = 1.0
REASON_TIMEOUT_SECONDS = 2.0
"""Time for an exiting rank to publish its reason, after a connection to it broke."""
HEARTBEAT_TIMEOUT_SECONDS = 60
"""Time without a heartbeat after which JAX takes a process for dead and ends all others."""
SHUTDOWN_TIMEOUT_SECONDS = 10
"""Time that JAX lets an exiting process wait for all others; a failed rank waits it out in vain."""


class JaxProcessGroup(ProcessGroup):
    """Votes and texts through JAX's key-value service, so that no step waits for a device."""

    def __init__(self, rank_info: RankInfo) -> None:
        """``jax.distributed`` must have been initialized."""
        self.rank_info = rank_info
        self.store: Any = distributed.global_state.client  # JAX's connection has no public name
        self.service: Any = distributed.global_state.service
        self.timeout_seconds = COLLECTIVE_TIMEOUT_SECONDS
        self._votes = self._broadcasts = 0

    def init_collectives(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds

    def poll_max(self, vote: int) -> int:
        """Rank 0 collects the votes of a call during the next step, and all ranks read its maximum."""
        number, self._votes = self._votes, self._votes + 1
        self.store.key_value_set(f"vote/{number}/{self.rank_info.rank}", str(vote))
        if number == 0:
            return 0
        before = number - 1
        if self.rank_info.is_main:
            votes = [int(self._get(f"vote/{before}/{rank}")) for rank in range(self.rank_info.world_size)]
            self.store.key_value_set(f"agreed/{before}", str(max(votes)))
            for old in (f"vote/{before}/", f"agreed/{before - LAG}"):  # every rank has read this one
                self.store.key_value_delete(old)
            return max(votes)
        return int(self._get(f"agreed/{before}"))

    def broadcast(self, text: str) -> str:
        key = f"broadcast/{self._broadcasts}"
        self._broadcasts += 1
        if self.rank_info.is_main:
            self.store.key_value_set(key, text)
            return text
        return self._get(key, no_timeout=True)

    def destroy(self) -> None:
        """Wait without a timeout until all ranks are done; rank 0 may still write."""
        self.store.key_value_set(f"done/{self.rank_info.rank}", "")
        for rank in range(self.rank_info.world_size):
            self._get(f"done/{rank}", no_timeout=True)

    def _get(self, key: str, *, no_timeout: bool = False) -> str:
        """Return a value as soon as another rank sets it. Raises DistributedError if a rank exits or is too late."""
        until = time.monotonic() + self.timeout_seconds
        while True:
            try:
                return self.store.blocking_key_value_get(key, int(1000 * POLL_SECONDS))
            except jax.errors.JaxRuntimeError as error:
                late = not no_timeout and time.monotonic() > until
                if late or self._exited() or "DEADLINE_EXCEEDED" not in str(error):
                    raise self._lost() from error

    @contextmanager
    def peer_failures(self) -> Generator[None]:
        """Raise DistributedError if another rank exits; publish the reason if this one fails."""
        kinds = (RuntimeError, ValueError)  # JAX raises either for a broken connection
        with translate_peer_failures(self._leave, self._lost, kinds, _is_loss):
            yield

    def _leave(self, reason: str) -> None:
        """Publish why this rank exits. Do nothing if the process that runs the store has exited."""
        try:
            self.store.key_value_set(
                f"left/{self.rank_info.rank}", reason[:MAX_REASON_CHARACTERS] or " ", allow_overwrite=True
            )
        except jax.errors.JaxRuntimeError:
            return

    def abandon(self) -> None:
        """Keep JAX from waiting for the other ranks when this process exits: one of them may never arrive.

        JAX waits when its connections are freed, so they are kept alive until the system closes them.
        """
        if self.rank_info.is_main:  # the others read the reason from its service, and JAX ends them without it
            until = time.monotonic() + SHUTDOWN_TIMEOUT_SECONDS
            while len(self._exited()) < self.rank_info.world_size and time.monotonic() < until:
                time.sleep(POLL_SECONDS / 10)
            time.sleep(REASON_TIMEOUT_SECONDS)
        for connection in (self.store, self.service):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        distributed.global_state.client = distributed.global_state.service = None

    def _exited(self) -> dict[int, str]:
        """Return the ranks that have exited, with the reason that they published."""
        try:
            entries = self.store.key_value_dir_get("left/")
        except jax.errors.JaxRuntimeError:
            return {0: "its service does not respond"}
        return {int(key.rsplit("/", 1)[1]): reason.strip() for key, reason in entries}

    def main_failed_with(self, message: str) -> bool:
        until = time.monotonic() + REASON_TIMEOUT_SECONDS
        while 0 not in self._exited() and time.monotonic() < until:
            time.sleep(POLL_SECONDS / 10)
        return self._exited().get(0) == message[:MAX_REASON_CHARACTERS].strip()

    def _lost(self) -> DistributedError:
        """Return the error with the reason that another rank published, or that one does not respond."""
        until = time.monotonic() + REASON_TIMEOUT_SECONDS
        while time.monotonic() < until:
            for rank, reason in self._exited().items():
                if reason and rank != self.rank_info.rank:
                    stopped = f"Process {rank} of {self.rank_info.world_size} has stopped: {reason}"
                    return DistributedError(stopped, hint=RESUME_HINT, published=True)
            time.sleep(POLL_SECONDS / 10)
        size = self.rank_info.world_size
        silence = f"Another of the {size} processes does not respond: killed, hanging, or its machine is down."
        return DistributedError(silence, hint=RESUME_HINT)


LAG = 4
"""Calls after which every rank has read a result: no rank lags by more than two."""
LOSS_MESSAGES = (
    "gloo",
    "Gloo",
    "Connection closed by peer",
    "Connection reset",
    "NCCL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)


def _is_loss(error: Exception) -> bool:
    return any(sign in str(error) for sign in LOSS_MESSAGES)


@contextmanager
def init_distributed(rank_info: RankInfo, device: str) -> Generator[JaxProcessGroup]:
    """Join the process group for the duration of the block. Raises DistributedError if another rank exits.

    Must be called before any other use of JAX. Several processes on one machine take one GPU each. Raises ConfigError
    for processes that torchrun has started.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        raise ConfigError(
            "torchrun occupies MASTER_PORT, which engine=jax needs.",
            hint="Start one process per machine with RANK and WORLD_SIZE set: docs/guide-engines.md.",
        )
    devices = [rank_info.local_rank] if rank_info.local_world_size > 1 and device != "cpu" else None
    try:
        jax.distributed.initialize(
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            num_processes=rank_info.world_size,
            process_id=rank_info.rank,
            local_device_ids=devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(COLLECTIVE_TIMEOUT_SECONDS),
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_SECONDS,
        )
    except RuntimeError as error:
        raise DistributedError(
            f"{str(rank_info).capitalize()} could not connect to the other ranks: {error}"
        ) from error
    group = JaxProcessGroup(rank_info)
    try:
        with group.peer_failures(), _libraries_on_standard_error():
            jax.devices()  # a collective: all processes wait for each other here, not at a later call
            yield group
            group.destroy()
    except BaseException:
        group.abandon()
        raise
    jax.distributed.shutdown()


@contextmanager
def _libraries_on_standard_error() -> Generator[None]:
    """Redirect standard output to standard error: Gloo prints its connections to where results belong."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
