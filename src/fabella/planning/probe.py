"""Trying out whether a micro-batch fits, and how fast it is, in a child process that may die of it."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from fabella.data.child_process import ChildExitedError, ChildProcess
from fabella.errors import FabellaError
from fabella.planning import probe_worker
from fabella.run_config.run import RunConfig

WORKER = probe_worker.__name__
POLL_SECONDS = 0.02
"""Between two looks at the child's memory: in that time a CPU writes at most about 100 MB of new memory."""

Reason = Literal["", "memory", "killed", "time"]
REASONS = {
    "memory": "needs more memory than there is",
    "killed": "was killed, as the system does when its memory ends",
    "time": "took too long",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What became of one micro-batch. Where ``reason`` is not empty it did not fit, and the numbers are 0."""

    micro_batch: int
    reason: Reason = ""
    seconds: float = 0.0
    """Of one micro-batch, forward and backward."""
    seconds_of_update: float = 0.0
    """Of what comes once a step, however many micro-batches it has: mainly the optimizer."""
    tokens_per_second: float = 0.0
    """Of steps of one micro-batch."""
    peak_bytes: int = 0
    """The most memory that was taken at once, of the GPU or of the whole process."""
    program_bytes: int = 0
    """Of the process before it had a model."""
    engine: dict[str, Any] | None = None

    @property
    def fits(self) -> bool:
        """Whether it went through its steps."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLimits:
    """Under which trials are made: memory in bytes, seconds for all of one trial, and the data to learn from."""

    limit: int
    on_gpu: bool
    seconds: float
    device: str = "auto"
    prepared: str = ""
    """A prepared folder; empty: random ids."""


def try_out(
    run: RunConfig, micro_batch: int, given: ProbeLimits, micro_batches: Sequence[int] = (1, 1, 1)
) -> ProbeResult:
    """Take steps of 1 and then of each of ``micro_batches`` micro-batches in a child; the first is not counted.

    Whatever the child dies of, this process lives on. Raises the FabellaError that the child met, or a FabellaError
    with its last words where it failed for a reason that has nothing to do with memory or time.
    """
    training = run.training.model_copy(update={"micro_batch_size": micro_batch, "gradient_accumulation": ((0, 1),)})
    request = {
        "run": run.model_copy(update={"training": training}).model_dump(mode="json"),
        "device": given.device,
        "device_limit": given.limit if given.on_gpu else 0,
        "prepared": given.prepared,
        "micro_batches": list(micro_batches),
    }
    result = _run_worker(request, sys.maxsize if given.on_gpu else given.limit, given.seconds)
    if "reason" in result:
        return ProbeResult(micro_batch=micro_batch, reason=result["reason"])
    if not result["on_gpu"] and result["peak_bytes"] > given.limit:
        return ProbeResult(micro_batch=micro_batch, reason="memory")
    return _measured(micro_batch, run.data.sequences.length, result)


def _run_worker(request: dict[str, Any], limit: int, seconds: float) -> dict[str, Any]:
    """Return the worker's result, or {"reason": …} if it exceeded ``limit`` bytes or ``seconds``, or was killed.

    Raises the worker's FabellaError, and a FabellaError with its last words if it crashed.
    """
    end = time.monotonic() + seconds
    with ChildProcess(WORKER, request, name="The probe", keep_stderr=True) as child:
        try:
            child.send()
            while not child.has_response(POLL_SECONDS):
                if _resident_bytes(child.pid) > limit:
                    return {"reason": "memory"}
                if time.monotonic() > end:
                    return {"reason": "time"}
            (result,) = child.receive()
        except ChildExitedError as error:
            return _exit_result(error.status, child.stderr())
    values: dict[str, Any] = json.loads(result)
    return values


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process in bytes; 0 if it has just exited."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _exit_result(status: str, stderr: str) -> dict[str, Any]:
    """Return the reason if the worker exited for lack of memory. Raises FabellaError for any other exit."""
    if status == "killed by SIGKILL":  # by the system, which is out of memory
        return {"reason": "killed"}
    if "bad_alloc" in stderr:  # C++ without a handler: the process aborts
        return {"reason": "memory"}
    last = (stderr.strip().splitlines() or ["nothing"])[-1]
    raise FabellaError(f"The process that ran a few steps exited ({status}); its last words: {last}")


def _measured(micro_batch: int, length: int, result: dict[str, Any]) -> ProbeResult:
    """Fastest of the repetitions: what disturbs a measurement only ever makes it slower."""
    fastest: dict[int, float] = {}
    for count, seconds in result["seconds"]:
        fastest[count] = min(seconds, fastest.get(count, seconds))
    one, two = fastest[1], fastest.get(2, 0.0)
    each = min(max(two - one, 0.0), one) if two else one
    return ProbeResult(
        micro_batch=micro_batch,
        seconds=each,
        seconds_of_update=one - each,
        tokens_per_second=micro_batch * length / one,
        peak_bytes=result["peak_bytes"],
        program_bytes=result["program_bytes"],
        engine=result["engine"],
    )
