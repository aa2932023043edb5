"""A service that is told of a run on a thread of its own: it may fail, hang or be slow, and the training goes on."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from fabella.tracking.tracker import Row

WAITING = 1000
"""Rows that wait for a service that is slow; of more, the oldest are left out. With a row every ten steps these are
ten thousand steps."""
SILENT_SECONDS, CLOSING_SECONDS = 2.0, 30.0
"""At the end a service may take so long to finish: silently, and at the most."""

Report = Callable[[str], None]


class RemoteTracker(Protocol):
    """A sink that is closed at the end; both may raise anything, and take any time."""

    def __call__(self, row: Row) -> None: ...

    def close(self) -> None: ...


class AsyncTracker:
    """A sink that never raises and never waits. Each trouble with its service is reported once, and then no more."""

    def __init__(self, name: str, connect: Callable[[], RemoteTracker], report: Report, waiting: int = WAITING) -> None:
        """``connect`` gives the service; it is called on the thread too, for it may need a network that is down."""
        self.name = name
        self._connect, self._report, self._most = connect, report, waiting
        self._rows: deque[Row] = deque()
        self._changed = threading.Condition()
        self._closing = self._over = self._late = False
        # A service that hangs must not keep the process from ending, therefore a daemon.
        self._thread = threading.Thread(target=self._work, name=f"fabella-{name}", daemon=True)
        self._thread.start()

    def __call__(self, row: Row) -> None:
        with self._changed:
            if self._over:
                return
            self._rows.append(row)
            late = len(self._rows) > self._most
            if late:
                self._rows.popleft()
            first, self._late = late and not self._late, self._late or late
            self._changed.notify()
        if first:
            self._report(f"{self.name} is too slow: its oldest rows are left out. metrics.jsonl has them all.")

    def close(self, *, silent: float = SILENT_SECONDS, at_most: float = CLOSING_SECONDS) -> None:
        """Let the service take what waits and finish, but no longer than ``at_most`` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(silent)
        if self._thread.is_alive():
            self._report(f"Waiting for {self.name} to finish, at most {at_most:.0f} seconds.")
            self._thread.join(at_most - silent)
        if self._thread.is_alive():
            self._report(f"{self.name} did not finish in time and may lack the last rows. metrics.jsonl has them all.")

    def _work(self) -> None:
        try:
            self._serve(self._connect())
        except BaseException as error:  # noqa: BLE001 - foreign code on a thread of its own: SystemExit ends it alone
            self._report(f"{self.name} failed and is left out from here on: {_first_line(error)}")
        with self._changed:
            self._over = True
            self._rows.clear()

    def _serve(self, service: RemoteTracker) -> None:
        try:
            while (row := self._next()) is not None:
                service(row)
        except BaseException:
            with suppress(Exception):  # its first error is the one that is told
                service.close()
            raise
        service.close()

    def _next(self) -> Row | None:
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing)
            return self._rows.popleft() if self._rows else None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
