"""Trying out whether a micro-batch fits, and how fast it is, in a child process that may die of it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from fabella import errors
from fabella.errors import FabellaError
from fabella.run_config.run import RunConfig

CHILD = [sys.executable, "-P", "-m", "fabella.planning.probe_worker"]
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
    ended = _run_child(json.dumps(request), sys.maxsize if given.on_gpu else given.limit, given.seconds)
    if ended.reason:
        return ProbeResult(micro_batch=micro_batch, reason=ended.reason)
    result = _result(ended)
    if result.get("out_of_memory") or (not result["on_gpu"] and result["peak_bytes"] > given.limit):
        return ProbeResult(micro_batch=micro_batch, reason="memory")
    return _measured(micro_batch, run.data.sequences.length, result)


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    out: str
    err: str
    reason: Reason


def _run_child(request: str, limit: int, seconds: float) -> _Ended:
    """Run the child to its end, or end it where it takes more memory than ``limit`` bytes, or more ``seconds``."""
    end = time.monotonic() + seconds
    child = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    reason: Reason = ""
    unsent: str | None = request
    try:
        while True:
            try:
                out, err = child.communicate(unsent, timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                unsent = None
            reason = reason or ("memory" if _held(child.pid) > limit else "time" if time.monotonic() > end else "")
            if reason:
                child.kill()
    finally:
        child.kill()
        child.wait()
    if not reason and child.returncode == -signal.SIGKILL:
        reason = "killed"
    return _Ended(child.returncode, out, err, reason)


def _held(pid: int) -> int:
    """Bytes of memory of a process; 0 where it has just ended."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _result(ended: _Ended) -> dict[str, Any]:
    """The child's answer. Raises what it raised."""
    lines = ended.out.strip().splitlines()
    if ended.code == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        if "error" in result:
            raise getattr(errors, result["error"])(result["problem"], fix=result["fix"])
        return result
    if "bad_alloc" in ended.err:  # C++ without a handler: the process aborts
        return {"out_of_memory": True}
    words = ended.err.strip().splitlines()
    last = words[-1] if words else "nothing"
    raise FabellaError(f"The process that tried a few steps ended with code {ended.code}; its last words: {last}")


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
