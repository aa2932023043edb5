"""Trackers on threads of their own: one that fails, hangs or is slow does not disturb the training."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, final

from fabella.tracking.background import BackgroundWorker
from fabella.tracking.tracker import Row

QUEUE_CAPACITY_ROWS = 1000
"""Rows that wait for a slow tracker; older ones are dropped. With a row every 10 steps, these are 10,000 steps."""
SILENT_SECONDS, CLOSING_SECONDS = 2.0, 30.0
"""Time at the end after which waiting for a tracker is reported, and after which it is given up."""

Report = Callable[[str], None]


class RemoteTracker(Protocol):
    """Tracker that must be closed. Its methods may raise anything and take any time."""

    def __call__(self, row: Row) -> None: ...

    def close(self) -> None: ...


@final
class AsyncTracker:
    """Tracker that neither raises nor blocks. It reports each kind of problem once."""

    def __init__(
        self, name: str, connect: Callable[[], RemoteTracker], report: Report, capacity: int = QUEUE_CAPACITY_ROWS
    ) -> None:
        """Call ``connect`` on the tracker's thread, because it may wait for a network, with the first row.

        A training that fails before its first step therefore leaves no files of a tracker.
        """
        self.name = name
        self._connect, self._report = connect, report
        self._tracker: RemoteTracker | None = None
        self._late = False
        self._worker = BackgroundWorker(
            report, name=name, on_error=self._fail, when_full="drop_oldest", capacity=capacity, on_close=self._finish
        )

    def __call__(self, row: Row) -> None:
        """Queue the row."""
        on_time = self._worker.submit(lambda: self._connected()(row))
        if not on_time and not self._late:
            self._late = True
            self._report(f"{self.name} is too slow: its oldest rows are dropped. metrics.jsonl has all of them.")

    def close(self, *, silent: float = SILENT_SECONDS, at_most: float = CLOSING_SECONDS) -> None:
        """Wait until the tracker has the queued rows and is closed, for at most ``at_most`` seconds.

        Waiting is reported after ``silent`` seconds.
        """
        if self._worker.close(silent):
            return
        self._report(f"Waiting for {self.name} to finish, at most {at_most:.0f} seconds.")
        if not self._worker.close(at_most - silent):
            message = f"{self.name} did not finish in time; its last rows may be missing."
            self._report(f"{message} metrics.jsonl has all of them.")

    def _connected(self) -> RemoteTracker:
        if self._tracker is None:
            self._tracker = self._connect()
        return self._tracker

    def _finish(self) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def _fail(self, error: BaseException) -> None:
        self._report(f"{self.name} failed and is disabled for the rest of the run: {_first_line(error)}")
        if self._tracker is not None:
            with suppress(BaseException):  # the first error has been reported; SystemExit only ends this thread
                self._tracker.close()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
