"""Print the call stacks of all threads if a step takes too long."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from fabella.engine.engine import StepResult
from fabella.engine.rank import RankInfo
from fabella.tracking.console import print_status
from fabella.training.loop import Progress

CHECKS_PER_TIMEOUT = 20
TIMEOUT_SHARE = 0.9
"""Share of the collective timeout: a rank that hangs prints its stacks before the other ranks give up."""


class Watchdog:
    """Report a step that exceeds its timeout, within the context; nothing is ended.

    Register ``step_finished`` as the first callback and ``step_started`` as the last: other callbacks have no timeout.
    """

    def __init__(
        self,
        seconds: float,
        rank_info: RankInfo,
        step: int = 0,
        report: Callable[[str], None] = print_status,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``seconds``: timeout of a step. ``step``: number of steps taken before."""
        self.seconds, self.rank_info, self.report, self.clock = seconds, rank_info, report, clock
        self._step = step
        self._since: float | None = None
        self._reported: float | None = None
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._since = self.clock()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finished.set()
        self._thread.join()

    def step_finished(self, progress: Progress, result: StepResult) -> None:
        """Stop the clock of a step."""
        self._since = None

    def step_started(self, progress: Progress, result: StepResult) -> None:
        """Start the clock of the next step."""
        self._step = progress.step
        self._since = self.clock()

    def check(self) -> None:
        """Report the step if it exceeds its timeout, once."""
        since = self._since
        if since is None or since == self._reported or self.clock() - since <= self.seconds:
            return
        self._reported = since
        rank = f" in {self.rank_info}" if self.rank_info.world_size > 1 else ""
        self.report(
            f"\nNo step for {self.seconds:.0f} seconds after step {self._step:,}{rank}: it may hang. Press "
            f"Ctrl-C twice to end it; everything up to the latest checkpoint is saved. Call stacks:\n{_call_stacks()}"
        )

    def _run(self) -> None:
        while not self._finished.wait(self.seconds / CHECKS_PER_TIMEOUT):
            self.check()


def _call_stacks() -> str:
    """Return the call stacks of the other threads, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate() if thread is not threading.current_thread()}
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented for this purpose
    return "\n".join(
        f"{name}:\n{''.join(traceback.format_stack(frames[ident]))}" for ident, name in names.items() if ident in frames
    )
