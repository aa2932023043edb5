"""The processes of one training on ``torch.distributed``: they meet, agree step by step, and notice who is gone."""

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
from fabella.engine.distributed.process_group import ProcessGroup, RankInfo, translate_peer_failures
from fabella.errors import DistributedError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 2.0
"""How long the others are given to say why they left, once a connection to one of them broke."""


class TorchProcessGroup(ProcessGroup):
    """Two process groups: one for tensors on the device (NCCL on GPUs), one on the CPU (gloo) for agreeing.

    The second is what notices a dead process: within a step, and without ever waiting for a GPU.
    """

    def __init__(self, place: RankInfo, device: torch.device) -> None:
        self.rank_info, self.device = place, device
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))  # pyright: ignore[reportPrivateImportUsage]
        # torchrun keeps one store through all restarts: what the dead have written there is not to be taken for ours.
        life = f"fabella/{place.restart_count}/{place.world_size}"
        self.store = dist.PrefixStore(life, store)  # pyright: ignore[reportPrivateImportUsage]
        self._pending: tuple[Any, Tensor] | None = None
        self._told = 0

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

    def broadcast(self, words: str) -> str:
        key = f"told/{self._told}"
        self._told += 1
        if self.rank_info.rank == 0:
            self.store.set(key, words)
            return words
        while not self.store.check([key]):
            if self.store.check([_left(0)]):
                raise DistributedError(self._who_is_gone())
            time.sleep(LOOK_SECONDS)
        return self.store.get(key).decode()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        dist.all_reduce(values)
        return values

    def gathered(self, values: Tensor) -> Tensor:
        """The values [N …] of all processes after one another, [size · N …]; N must be the same for all."""
        parts = [torch.empty_like(values) for _ in range(self.rank_info.world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @contextmanager
    def peer_failures(self) -> Generator[None]:
        """Within: where another process is lost, RanksError says which; one that fails tells the others why."""
        with translate_peer_failures(self._leave, self._who_is_gone, (RuntimeError,), _is_loss):
            yield
            self._result(self._pending)

    def _leave(self, reason: str) -> None:
        """Tell the others why this one ends; nothing to be done where the one that keeps the words is gone itself."""
        try:
            self.store.set(_left(self.rank_info.rank), reason[:500])
        except RuntimeError:
            return

    def _who_is_gone(self) -> str:
        """One sentence a process that failed, else one for those that do not answer."""
        silent = {rank for rank in range(self.rank_info.world_size) if rank != self.rank_info.rank}
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while silent and time.monotonic() < until:
                for rank in [rank for rank in silent if self.store.check([_left(rank)])]:
                    silent.remove(rank)
                    if reason := self.store.get(_left(rank)).decode():
                        return f"Process {rank} of {self.rank_info.world_size} has stopped: {reason}"
                time.sleep(LOOK_SECONDS)
        except RuntimeError:  # the store has gone with the process that kept it, which is the first
            return f"Process 0 of {self.rank_info.world_size} is gone, or its machine."
        names = " and ".join(str(rank) for rank in sorted(silent)) or "one of the others"
        return (
            f"Process {names} of {self.rank_info.world_size} does not answer: killed, hanging, or its machine is gone."
        )

    def destroy(self) -> None:
        """Leave the groups; every process must."""
        if dist.is_initialized():
            dist.destroy_process_group()


# What the collectives raise when a peer is gone or late; RuntimeError is also raised for bugs of one's own.
SIGNS = ("third_party/gloo", "gloo::", "Connection closed by peer", "Connection reset by peer", "NCCL", "Timed out")


def _is_loss(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in SIGNS)


def _left(rank: int) -> str:
    return f"left/{rank}"


@contextmanager
def init_distributed(place: RankInfo, device: torch.device) -> Generator[TorchProcessGroup]:
    """This process among the others, for as long as the block lasts. Raises RanksError where one is lost."""
    exit_with_parent()
    try:
        group = TorchProcessGroup(place, device)
    except RuntimeError as error:
        raise DistributedError(f"{str(place).capitalize()} did not find the others: {error}") from error
    with group.peer_failures():
        yield group
    group.destroy()


def exit_with_parent() -> None:
    """SIGTERM to this process when the launcher dies, so that none trains on unwatched.

    Our own launcher is not our parent in the system's sense (a server forks us), but Python keeps a pipe to it; of
    torchrun only Linux tells us.
    """
    if launcher := multiprocessing.parent_process():
        threading.Thread(target=_stop_after, args=(launcher,), name="launcher", daemon=True).start()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1 and os.environ.get("TORCHELASTIC_RUN_ID"):  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)


def _stop_after(launcher: BaseProcess) -> None:
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)
