"""Probe of a micro-batch size: memory and speed of a few steps, in a child process that may run out of memory."""

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
"""Seconds between two readings of the child's memory; in that time a CPU fills at most about 100 MB."""

Reason = Literal["", "memory", "killed", "time"]
REASONS = {
    "memory": "needs more memory than available",
    "killed": "was killed, probably because the machine ran out of memory",
    "time": "took too long",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Result of one probe. If ``reason`` is not empty, nothing was measured: all numbers are 0."""

    micro_batch_size: int
    reason: Reason = ""
    seconds: float = 0.0
    """Seconds of one micro-batch, forward and backward."""
    update_seconds: float = 0.0
    """Seconds of the work once per step, mainly the optimizer update."""
    tokens_per_second: float = 0.0
    """Throughput of steps with one micro-batch."""
    peak_bytes: int = 0
    """Peak memory of the GPU or of the whole process."""
    program_bytes: int = 0
    """Memory of the process before the model was built."""
    engine: dict[str, Any] | None = None

    @property
    def measured(self) -> bool:
        """True if all steps were taken."""
        return not self.reason

    @property
    def fits(self) -> bool | None:
        """Whether the steps fit into memory; None if they took too long to know."""
        return None if self.reason == "time" else not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLimits:
    """Limits of one probe: memory in bytes, time in seconds, device and data."""

    limit: int
    on_gpu: bool
    seconds: float
    device: str = "auto"
    prepared: str = ""
    """Directory of a dataset; empty for random ids."""


def probe_batch_size(
    run: RunConfig, micro_batch_size: int, limits: ProbeLimits, micro_batches: Sequence[int] = (1, 1, 1)
) -> ProbeResult:
    """Take a warm-up step and then steps of each of ``micro_batches`` micro-batches in a child process.

    Raises the FabellaError of the child, or one with its last line of output if it failed for another reason than
    memory or time.
    """
    training = run.training.model_copy(
        update={"micro_batch_size": micro_batch_size, "gradient_accumulation": ((0, 1),)}
    )
    request = {
        "run": run.model_copy(update={"training": training}).model_dump(mode="json"),
        "device": limits.device,
        "device_limit": limits.limit if limits.on_gpu else 0,
        "prepared": limits.prepared,
        "micro_batches": list(micro_batches),
    }
    result = _run_worker(request, sys.maxsize if limits.on_gpu else limits.limit, limits.seconds)
    if "reason" in result:
        return ProbeResult(micro_batch_size=micro_batch_size, reason=result["reason"])
    if not result["on_gpu"] and result["peak_bytes"] > limits.limit:
        return ProbeResult(micro_batch_size=micro_batch_size, reason="memory")
    return _measured(micro_batch_size, run.data.sequences.length, result)


def _run_worker(request: dict[str, Any], limit: int, seconds: float) -> dict[str, Any]:
    """Return the worker's result, or {"reason": …} if it exceeded ``limit`` bytes or ``seconds``, or was killed.

    Raises the worker's FabellaError, and a FabellaError with its last line of output if it crashed.
    """
    deadline = time.monotonic() + seconds
    with ChildProcess(WORKER, request, name="The probe", keep_stderr=True) as child:
        try:
            child.send()
            while not child.has_response(POLL_SECONDS):
                if _rss(child.pid) > limit:
                    return {"reason": "memory"}
                if time.monotonic() > deadline:
                    return {"reason": "time"}
            (result,) = child.receive()
        except ChildExitedError as error:
            return _exit_result(error.status, child.stderr())
    values: dict[str, Any] = json.loads(result)
    return values


def _rss(pid: int) -> int:
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
    raise FabellaError(f"The probe process exited ({status}). Its last line of output: {last}")


def _measured(micro_batch_size: int, length: int, result: dict[str, Any]) -> ProbeResult:
    """Return the fastest repetition: disturbances only make a measurement slower."""
    fastest: dict[int, float] = {}
    for count, seconds in result["seconds"]:
        fastest[count] = min(seconds, fastest.get(count, seconds))
    one, two = fastest[1], fastest.get(2, 0.0)
    micro_batch_seconds = min(max(two - one, 0.0), one) if two else one
    return ProbeResult(
        micro_batch_size=micro_batch_size,
        seconds=micro_batch_seconds,
        update_seconds=one - micro_batch_seconds,
        tokens_per_second=micro_batch_size * length / one,
        peak_bytes=result["peak_bytes"],
        program_bytes=result["program_bytes"],
        engine=result["engine"],
    )
