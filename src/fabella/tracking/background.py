"""Run jobs in order on a thread of their own, so that the training loop does not wait for them."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self, final

Task = Callable[[], object]
ErrorHandler = Callable[[BaseException], None]

QUEUE_CAPACITY = 256
"""Tasks that can wait. Rows are small, and ``SaveCheckpoint`` never queues a second snapshot of the model."""


class Worker(Protocol):
    """Run submitted tasks one after the other; a context manager that finishes them at its end."""

    def submit(self, task: Task) -> bool:
        """Queue a task. Return False if an older task was dropped for it."""
        ...

    def check(self) -> None:
        """Raise the error of an earlier task, if there was one."""
        ...

    def flush(self) -> None:
        """Wait until all submitted tasks are finished; raise the error of one that failed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@final
class BackgroundWorker:
    """Run tasks on one daemon thread, in the order of submission.

    No task runs after one that failed: the files on disk are those of some moment, without a gap.

    The context manager waits for all tasks. Only ``KeyboardInterrupt`` drops the queued ones; the running task is
    finished in any case.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        *,
        name: str = "background",
        on_error: ErrorHandler | None = None,
        when_full: Literal["block", "drop_oldest"] = "block",
        capacity: int = QUEUE_CAPACITY,
        on_close: Task | None = None,
    ) -> None:
        """Start the thread.

        ``on_error``: called once, on the worker's thread, with the first error. Without it, ``submit``, ``check``,
        ``flush`` and the end of the context raise that error on the caller's thread.
        ``when_full``: behavior of ``submit`` with ``capacity`` tasks in the queue.
        ``on_close``: last task, run if none has failed.
        ``report``: receives an error that would be lost because another one ended the context.
        """
        self._report, self._on_error, self._on_close = report, on_error, on_close
        self._when_full, self._capacity = when_full, capacity
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._running = self._closing = False
        self._error: BaseException | None = None
        # A daemon: a disk or network that hangs must not keep the process alive after a second Ctrl-C.
        self._thread = threading.Thread(target=self._work, name=f"fabella-{name}", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> bool:
        """Queue a task. Return False if the oldest queued task was dropped for it."""
        self.check()
        dropped = False
        with self._changed:
            if self._when_full == "block":
                self._changed.wait_for(lambda: len(self._tasks) < self._capacity)
            elif len(self._tasks) >= self._capacity:
                self._tasks.popleft()
                dropped = True
            if self._error is None:
                self._tasks.append(task)
            self._changed.notify_all()
        return not dropped

    def check(self) -> None:
        """Raise the error of an earlier task, unless ``on_error`` has handled it."""
        if self._error is not None and self._on_error is None:
            raise self._error

    def flush(self) -> None:
        """Wait until all submitted tasks are finished; raise the error of one that failed."""
        self._wait_until_idle()
        self.check()

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Finish the queued tasks and end the thread. Return False if it still runs after ``timeout_seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._drop_queued()
        try:
            self._wait_until_idle()
        finally:
            self._drop_queued()
            self.close()
        if error is None:
            self.check()
        elif self._error is not None and self._error is not error:
            self._report(f"A background task failed, too: {self._error}")

    def _work(self) -> None:
        while (task := self._next()) is not None:
            self._run(task)
            del task  # it may hold a snapshot of the model: free it before the next task arrives
            with self._changed:
                self._running = False
                self._changed.notify_all()
        if self._on_close is not None and self._error is None:
            self._run(self._on_close)

    def _next(self) -> Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._closing)
            if not self._tasks:
                return None
            self._running = True
            task = self._tasks.popleft()
            self._changed.notify_all()
            return task

    def _run(self, task: Task) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - reported, or raised again on the caller's thread
            with self._changed:
                self._error = error
                self._tasks.clear()
            if self._on_error is not None:
                self._on_error(error)

    def _wait_until_idle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks and not self._running)

    def _drop_queued(self) -> None:
        with self._changed:
            self._tasks.clear()
            self._changed.notify_all()


@final
class NullWorker:
    """No-op worker for ranks other than 0, which neither log nor save."""

    def submit(self, task: Task) -> bool:
        """Ignore the task."""
        return True

    def check(self) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""
