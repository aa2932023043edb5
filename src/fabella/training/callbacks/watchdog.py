"""A training that hangs says where: what each of its threads is doing, once a step takes longer than any should."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from fabella.engine.distributed.process_group import RankInfo
from fabella.engine.engine import StepResult
from fabella.tracking.console import print_status
from fabella.training.loop import Progress

CHECKS_PER_TIMEOUT = 20
"""While a step has its time."""
SHARE = 0.9
"""Of the time that others wait for a process: it says where it hangs before they end."""


class Watchdog:
    """While the block lasts, a thread looks whether steps are taken. It says what it sees, and ends nothing.

    ``rest`` is to be the first observer and ``watch`` the last: a step is what lies between, from waiting for its batch
    on. Validating, sampling and saving take as long as they take.
    """

    def __init__(
        self,
        seconds: float,
        place: RankInfo,
        step: int = 0,
        report: Callable[[str], None] = print_status,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``seconds``: that a step may take. ``step``: how many were taken before."""
        self.seconds, self.place, self.report, self.clock = seconds, place, report, clock
        self._step = step
        self._since: float | None = None
        self._told: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._since = self.clock()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def step_finished(self, progress: Progress, result: StepResult) -> None:
        """The step is taken."""
        self._since = None

    def step_started(self, progress: Progress, result: StepResult) -> None:
        """The next one begins."""
        self._step = progress.step
        self._since = self.clock()

    def look(self) -> None:
        """Say where the step hangs, if it takes too long: once a step."""
        since = self._since
        if since is None or since == self._told or self.clock() - since <= self.seconds:
            return
        self._told = since
        who = f" in {self.place}" if self.place.world_size > 1 else ""
        self.report(
            f"\nNo step for {self.seconds:.0f} seconds after step {self._step:,}{who}: it may hang. Ctrl-C, twice, "
            f"ends it; everything up to the newest checkpoint is saved. What its threads are doing:\n{_threads()}"
        )

    def _run(self) -> None:
        while not self._over.wait(self.seconds / CHECKS_PER_TIMEOUT):
            self.look()


def _threads() -> str:
    """The call stack of every thread but this one, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate() if thread is not threading.current_thread()}
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - its documentation offers it for just this
    return "\n".join(
        f"{name}:\n{''.join(traceback.format_stack(frames[ident]))}" for ident, name in names.items() if ident in frames
    )
