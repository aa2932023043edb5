"""Process group on ``torch.distributed``, which notices ranks that exit."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fabella.config.training import COLLECTIVE_TIMEOUT_SECONDS
from fabella.engine.device_torch import pick_device
from fabella.engine.distributed.process_group import (
    MAX_REASON_CHARACTERS,
    RESUME_HINT,
    ProcessGroup,
    translate_peer_failures,
)
from fabella.engine.rank import RankInfo
from fabella.errors import DistributedError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
POLL_SECONDS = 0.1
REASON_TIMEOUT_SECONDS = 2.0
"""Time for an exiting rank to publish its reason, after a connection to it broke."""


class TorchProcessGroup(ProcessGroup):
    """Two groups of torch.distributed: one for tensors on the device (NCCL on GPUs), one on the CPU (gloo) for votes.

    The second one notices a dead rank within a step, and without waiting for a GPU.
    """

    def __init__(self, rank_info: RankInfo) -> None:
        self.rank_info = rank_info
        self.device = torch.device("cpu")
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))  # pyright: ignore[reportPrivateImportUsage]
        # torchrun keeps one store across restarts: a prefix separates our keys from those of dead processes.
        prefix = f"fabella/{rank_info.restart_count}/{rank_info.world_size}"
        self.store = dist.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage]
        self._pending: tuple[Any, Tensor] | None = None
        self._broadcasts = 0

    def init_collectives(self, timeout_seconds: float) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        device_id = self.device if backend == "nccl" else None
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("groups", self.store),  # pyright: ignore[reportPrivateImportUsage]
            rank=self.rank_info.rank,
            world_size=self.rank_info.world_size,
            timeout=timeout,
            device_id=device_id,
        )
        self.control = dist.new_group(backend="gloo", timeout=timeout)

    def poll_max(self, vote: int) -> int:
        before = self._pending
        votes = torch.tensor([vote])
        self._pending = (dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.control, async_op=True), votes)
        return self._result(before)

    def _result(self, pending: tuple[Any, Tensor] | None) -> int:
        if pending is None:
            return 0
        work, votes = pending
        work.wait()
        return int(votes)

    def broadcast(self, text: str) -> str:
        key = f"broadcast/{self._broadcasts}"
        self._broadcasts += 1
        if self.rank_info.rank == 0:
            self.store.set(key, text)
            return text
        while not self.store.check([key]):
            if self.store.check([_left(0)]):
                raise self._lost()
            time.sleep(POLL_SECONDS)
        return self.store.get(key).decode()

    def main_failed_with(self, message: str) -> bool:
        until = time.monotonic() + REASON_TIMEOUT_SECONDS
        try:
            while not self.store.check([_left(0)]):
                if time.monotonic() > until:
                    return False
                time.sleep(POLL_SECONDS)
            return self.store.get(_left(0)).decode() == message[:MAX_REASON_CHARACTERS]
        except RuntimeError:  # the store has exited
            return False

    def sum(self, values: Tensor) -> Tensor:
        """Sum ``values`` over all ranks, in place."""
        dist.all_reduce(values)
        return values

    def gathered(self, values: Tensor) -> Tensor:
        """Concatenate the values [N …] of all ranks to [world_size · N …]; N must be equal on all ranks."""
        parts = [torch.empty_like(values) for _ in range(self.rank_info.world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @contextmanager
    def peer_failures(self) -> Generator[None]:
        """Raise DistributedError if another rank exits; publish the reason if this one fails."""
        with translate_peer_failures(self._leave, self._lost, (RuntimeError,), _is_loss):
            yield
            self._result(self._pending)

    def _leave(self, reason: str) -> None:
        """Publish why this rank exits. Do nothing if the process that runs the store has exited."""
        try:
            self.store.set(_left(self.rank_info.rank), reason[:MAX_REASON_CHARACTERS])
        except RuntimeError:
            return

    def _lost(self) -> DistributedError:
        """Return the error with the reason that a failed rank published, or with the ranks that do not respond."""
        silent = {rank for rank in range(self.rank_info.world_size) if rank != self.rank_info.rank}
        until = time.monotonic() + REASON_TIMEOUT_SECONDS
        try:
            while silent and time.monotonic() < until:
                for rank in [rank for rank in silent if self.store.check([_left(rank)])]:
                    silent.remove(rank)
                    if reason := self.store.get(_left(rank)).decode():
                        stopped = f"Process {rank} of {self.rank_info.world_size} has stopped: {reason}"
                        return DistributedError(stopped, hint=RESUME_HINT, published=True)
                time.sleep(POLL_SECONDS)
        except RuntimeError:  # the store exits with rank 0, which runs it
            exited = f"Process 0 of {self.rank_info.world_size} has exited, or its machine is down."
            return DistributedError(exited, hint=RESUME_HINT)
        names = " and ".join(str(rank) for rank in sorted(silent)) or "other than this one"
        silence = f"Process {names} of {self.rank_info.world_size} does not respond"
        return DistributedError(f"{silence}: killed, hanging, or its machine is down.", hint=RESUME_HINT)

    def destroy(self) -> None:
        """Destroy the groups; all ranks must call this."""
        if dist.is_initialized():
            dist.destroy_process_group()


# Parts of messages of collectives after a rank has exited or is late. Bugs raise RuntimeError too.
LOSS_MESSAGES = (
    "third_party/gloo",
    "gloo::",
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL",
    "Timed out",
)


def _is_loss(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in LOSS_MESSAGES)


def _left(rank: int) -> str:
    return f"left/{rank}"


@contextmanager
def init_distributed(rank_info: RankInfo, device: str) -> Generator[TorchProcessGroup]:
    """Join the process group for the duration of the block. Raises DistributedError if another rank exits."""
    exit_with_parent()
    try:
        group = TorchProcessGroup(rank_info)
    except RuntimeError as error:
        raise DistributedError(
            f"{str(rank_info).capitalize()} could not connect to the other ranks: {error}"
        ) from error
    with group.peer_failures():
        group.device = pick_device(device, rank_info)
        yield group
    group.destroy()


def exit_with_parent() -> None:
    """Send SIGTERM to this process when its launcher dies, so that no rank keeps training without it.

    Our own launcher is not the parent process (a fork server is), but Python keeps a pipe to it. For torchrun this
    works on Linux only.
    """
    if launcher := multiprocessing.parent_process():
        threading.Thread(target=_stop_after, args=(launcher,), name="launcher", daemon=True).start()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1 and os.environ.get("TORCHELASTIC_RUN_ID"):  # the launcher died before the call above
            os.kill(os.getpid(), signal.SIGTERM)


def _stop_after(launcher: BaseProcess) -> None:
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)
