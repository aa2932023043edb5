"""The rows of a run: its own files, the console and the trackers of its config, written in the background."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import final

from fabella.runs.run_dir import RunDir
from fabella.tracking.background import BackgroundWorker, NullWorker, Worker
from fabella.tracking.console import ConsoleTracker, print_status
from fabella.tracking.factory import open_trackers
from fabella.tracking.tracker import JsonlTracker, Row, Tracker, TrackerGroup


@final
class RunLog:
    """Write rows to all trackers of a run. On ranks other than 0, ignore them."""

    def __init__(self, files: JsonlTracker | None, trackers: Sequence[Tracker], *, has_remote: bool) -> None:
        """``files``: None on ranks other than 0. ``has_remote``: whether there are trackers for histograms."""
        self._files = files
        self._group = TrackerGroup(files or _ignore, trackers, print_status)
        self.has_remote = has_remote
        self.worker: Worker = NullWorker()

    @contextmanager
    def in_background(self) -> Generator[Worker]:
        """Write rows on a background thread within the block, which ends when all of them are written."""
        with BackgroundWorker(print_status) if self._files else NullWorker() as self.worker:
            yield self.worker

    def write(self, row: Row) -> None:
        """Queue a row for all trackers."""
        self.worker.submit(partial(self._group, row))

    def write_secondary(self, row: Row) -> None:
        """Queue a row for all trackers except the run's own files."""
        self.worker.submit(partial(self._group.log_secondary, row))

    def write_now(self, row: Row) -> None:
        """Write a row on this thread, with rows that wait for disk space. Raise DiskFullError if there is none."""
        self._group(row)
        self.flush()

    def flush(self) -> None:
        """Write the rows that wait for disk space. Raise DiskFullError if there is none."""
        if self._files:
            self._files.flush()


@contextmanager
def open_run_log(
    run_dir: RunDir, *, step: int, steps: int, bits_per_nat: float, trackers: Sequence[Tracker], is_main: bool
) -> Generator[RunLog]:
    """Open the log of a run that continues after ``step`` of ``steps``. Close its trackers at the end of the block."""
    if not is_main:
        yield RunLog(None, [], has_remote=False)
        return
    with ExitStack() as stack:
        console = stack.enter_context(closing(ConsoleTracker(steps, bits_per_nat)))
        remote = [
            stack.enter_context(closing(tracker)) for tracker in open_trackers(run_dir, step=step, report=print_status)
        ]
        files = JsonlTracker(run_dir.path, print_status)
        yield RunLog(files, [console, *remote, *trackers], has_remote=bool(remote))


def _ignore(row: Row) -> None:
    """Ignore a row: rank 0 writes the same one."""
