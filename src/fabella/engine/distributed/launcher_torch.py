"""Start and monitor several processes of a training on this machine, by ``torch.multiprocessing``."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException

from fabella.engine.distributed.process_group import RESUME_HINT
from fabella.errors import ConfigError, DistributedError

HOST = "127.0.0.1"
SAVE_SIGNAL = getattr(signal, "SIGUSR1", None)
"""None on Windows, which has no such signal."""
FORWARDED = [number for number in (signal.SIGINT, signal.SIGTERM, SAVE_SIGNAL) if number is not None]
POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""Time for the other processes to exit after one has failed, before SIGTERM; the same again before SIGKILL."""
PRELOADED = ["fabella.engine.engine_torch", "fabella.engine.distributed.data_parallel_torch", "torch._dynamo"]
"""Modules that the fork server imports once for all processes; DistributedDataParallel needs the last one."""


def parse_devices(devices: str) -> int:
    """Return the number of processes in ``--devices``: a number, or ``auto`` for one per GPU (one on a CPU).

    Raises ConfigError for anything else.
    """
    if devices == "auto":
        return max(1, torch.cuda.device_count())
    if not devices.isdecimal() or int(devices) < 1:
        raise ConfigError(
            f"Cannot parse --devices {devices}: it must be a number from 1, or auto.", hint="Use --devices auto."
        )
    return int(devices)


def launch(count: int, work: Callable[..., int], *arguments: Any) -> int:
    """Call ``work(*arguments)`` in ``count`` new processes with their ranks set, and return the joint exit code.

    ``work`` returns the exit code of its process. It must be a function of a module, and its arguments plain values.
    After one process has failed, the others have GRACE_SECONDS to exit before they are killed. Signals are forwarded; a
    second Ctrl-C kills. A bug in a process is printed with its traceback, and the code is 1. Raises DistributedError if
    a process was killed.
    """
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    threads = max(1, torch.get_num_threads() // count)
    task = (count, store.port, threads, work, arguments)
    method = start_method()
    if method == "forkserver":
        multiprocessing.set_forkserver_preload([*PRELOADED, work.__module__])
    start = processes.start_processes  # pyright: ignore[reportPrivateImportUsage]
    context: Any = start(_run, task, count, join=False, start_method=method)
    with _forward_signals(context):
        try:
            while not context.join(timeout=POLL_SECONDS, grace_period=GRACE_SECONDS):
                pass
        except ProcessExitedException as ended:
            return _code(context, ended)
        except ProcessRaisedException as bug:
            print(bug, file=sys.stderr)  # with the traceback of its process; ours would not help
            return 1
        finally:
            _reap(context)
    return 0


def start_method() -> str:
    """Return how processes are started: by a fork server, or one by one where the system cannot fork (Windows)."""
    return "forkserver" if hasattr(os, "fork") else "spawn"


def _run(rank: int, count: int, port: int, threads: int, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """Set the environment variables that torchrun would set, and run ``work`` in a new process."""
    os.environ.update({
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher runs the store: it outlives all ranks
    })  # fmt: skip
    if SAVE_SIGNAL is not None:
        signal.signal(SAVE_SIGNAL, signal.SIG_IGN)  # nothing to save before the training handles it
    torch.set_num_threads(threads)
    code = work(*arguments)
    if start_method() == "spawn":
        # As a process of the fork server ends. The interpreter's shutdown may abort while torch has native threads.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    if code:
        raise SystemExit(code)


def _code(context: ProcessContext, ended: ProcessExitedException) -> int:
    """Return the code of the first process that failed by itself, not because another rank exited."""
    codes = [process.exitcode or 0 for process in context.processes]
    if own_failures := [code for code in codes if code > 0 and code != DistributedError.exit_code]:
        return own_failures[0]
    killed = [rank for rank, code in enumerate(codes) if code < 0]
    if killed:
        name = signal.Signals(-codes[killed[0]]).name
        raise DistributedError(
            f"Process {killed[0]} of {len(codes)} was killed by {name}.",
            hint=RESUME_HINT,
        ) from ended
    return DistributedError.exit_code


@contextmanager
def _forward_signals(context: ProcessContext) -> Generator[None]:
    first_stop = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_stop
        kill = number != SAVE_SIGNAL and first_stop and time.monotonic() - first_stop > POLL_SECONDS
        for process in context.processes:
            if process.is_alive() and kill:
                process.kill()
            elif process.is_alive():
                os.kill(process.pid, number)
        first_stop = first_stop if number == SAVE_SIGNAL else time.monotonic()

    before = {number: signal.signal(number, handle) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reap(context: ProcessContext) -> None:
    """Kill and join every process that is still alive."""
    for process in context.processes:
        if process.is_alive():
            process.kill()
        process.join()
