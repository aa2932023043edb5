"""Several processes of one training on this machine, started and watched by ``torch.multiprocessing``."""

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
SAVE_NOW = getattr(signal, "SIGUSR1", None)
"""None on Windows, which has no such signal."""
FORWARDED = [number for number in (signal.SIGINT, signal.SIGTERM, SAVE_NOW) if number is not None]
LOOK_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""To end by oneself, after another process has failed; twice as long in all: SIGTERM comes before SIGKILL."""
# Loaded once, by a process that has never computed anything and from which the others are forked: loading torch takes
# seconds, and each of them would do it at the same time.
LOADED_ONCE = ["fabella.engine.engine_torch", "fabella.engine.distributed.data_parallel_torch"]


def devices_here(asked: str) -> int:
    """Processes that ``--devices`` asks for: a number, or one for each GPU (``auto``); on a CPU that is one.

    Raises ConfigError for anything else.
    """
    if asked == "auto":
        return max(1, torch.cuda.device_count())
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"--devices {asked} is neither a number of devices nor auto.", hint="Use --devices auto.")
    return int(asked)


def launch(count: int, work: Callable[..., int], *arguments: Any) -> int:
    """Do ``work(*arguments)`` in ``count`` new processes that know their place; the exit code of all of them together.

    ``work`` gives back its process's exit code; it must be a function of a module, its arguments plain values. Once one
    process has failed, the others have half a minute to end by themselves, then they are killed. Signals are
    passed on; a second Ctrl-C kills. A bug in one is printed with its traceback; the code is 1. Raises RanksError where
    a process was killed.
    """
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    threads = max(1, torch.get_num_threads() // count)
    task = (count, store.port, threads, work, arguments)
    multiprocessing.set_forkserver_preload([*LOADED_ONCE, work.__module__])
    start = processes.start_processes  # pyright: ignore[reportPrivateImportUsage]
    context: Any = start(_run, task, count, join=False, start_method="forkserver")
    with _passing_on_signals(context):
        try:
            while not context.join(timeout=LOOK_SECONDS, grace_period=GRACE_SECONDS):
                pass
        except ProcessExitedException as ended:
            return _code(context, ended)
        except ProcessRaisedException as bug:
            print(bug, file=sys.stderr)  # with its process's traceback; ours would say nothing
            return 1
        finally:
            _reap(context)
    return 0


def _run(rank: int, count: int, port: int, threads: int, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """The beginning of a process: what torchrun would have put into its environment."""
    os.environ.update({
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher keeps the store: it outlives every one of us
    })  # fmt: skip
    if SAVE_NOW is not None:
        signal.signal(SAVE_NOW, signal.SIG_IGN)  # until the training listens there is nothing to save
    torch.set_num_threads(threads)
    code = work(*arguments)
    if code:
        raise SystemExit(code)


def _code(context: ProcessContext, ended: ProcessExitedException) -> int:
    """The code of the process that failed first of its own accord; those that lost another one have RanksError's."""
    codes = [process.exitcode or 0 for process in context.processes]
    if own := [code for code in codes if code > 0 and code != DistributedError.exit_code]:
        return own[0]
    killed = [rank for rank, code in enumerate(codes) if code < 0]
    if killed:
        name = signal.Signals(-codes[killed[0]]).name
        raise DistributedError(
            f"Process {killed[0]} of {len(codes)} was ended by {name}.",
            hint=RESUME_HINT,
        ) from ended
    return DistributedError.exit_code


@contextmanager
def _passing_on_signals(context: ProcessContext) -> Generator[None]:
    asked = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        again = number != SAVE_NOW and asked and time.monotonic() - asked > LOOK_SECONDS
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL if again else number)
        asked = asked if number == SAVE_NOW else time.monotonic()

    before = {number: signal.signal(number, handle) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reap(context: ProcessContext) -> None:
    """Leave no process behind, whatever happened."""
    for process in context.processes:
        if process.is_alive():
            process.kill()
        process.join()
