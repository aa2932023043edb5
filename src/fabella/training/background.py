"""The thread behind the loop: telling and saving, one task after the other, in the order they were handed over."""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Task = Callable[[], None]

WAITING = 256
"""Tasks that may wait. Rows are small, and of the snapshots, which are not, ``Save`` has only one at a time."""


class BackgroundWorker:
    """Does what it is given on one thread, in order, while the loop goes on; use it as a context.

    Once a task has raised, no later one is done: what lies on disk is everything up to some moment, never with a gap.
    ``check``, ``do`` and ``drain`` then raise the same error on the caller's thread, and so does the end of the
    context. The context ends when everything is done; only where it is left by KeyboardInterrupt, which asks for an
    end at once, what still waits is dropped (the task under way is finished all the same).
    """

    def __init__(self, report: Callable[[str], None], waiting: int = WAITING) -> None:
        """``report`` is told an error that would otherwise be lost behind another one, which ended the context."""
        self._report = report
        self._tasks: queue.Queue[Task | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        # A disk that hangs must not keep the process from ending once the user insists on it, therefore a daemon.
        self._thread = threading.Thread(target=self._work, name="fabella-behind", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Hand a task over; waits while the queue is full."""
        self.check()
        self._tasks.put(task)

    def check(self) -> None:
        """Raises the error of an earlier task, if there was one."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Wait until everything handed over is done."""
        self._tasks.join()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._drop_waiting()
        try:
            self._tasks.join()
        finally:
            self._drop_waiting()
            self._tasks.put(None)
            self._thread.join()
        if error is None:
            self.check()
        elif self._error is not None and self._error is not error:
            self._report(f"Besides: {self._error}")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                if self._error is None:
                    task()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again on the loop's thread
                self._error = error
            finally:
                self._tasks.task_done()
                del task  # not until the next one comes: it may hold a snapshot of the whole model

    def _drop_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
                self._tasks.task_done()


class NullWorker(BackgroundWorker):
    """For a process beside the first: all of them look and take snapshots, but one tells and writes."""

    def __init__(self) -> None:
        """No thread is started."""

    def submit(self, task: Task) -> None:
        """Leave it to the first process."""

    def check(self) -> None:
        """Nothing can have gone wrong here."""

    def flush(self) -> None:
        """Nothing waits."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to do."""
