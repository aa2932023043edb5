"""The tracker protocol, the tracker that writes a run's own files, and a group of trackers."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fabella.errors import DiskFullError
from fabella.runs.metrics_log import append_row

Row = Mapping[str, Any]
"""``kind`` (train, validation, validation_also, sample, grad_spike, divergence, rollback, final or histograms),
``step``, and values."""


class Tracker(Protocol):
    """Destination of rows, called with them in the order of their steps."""

    def __call__(self, row: Row) -> None: ...


class JsonlTracker:
    """Append rows to ``metrics.jsonl`` and ``samples.jsonl`` of a run directory, from which all plots are drawn.

    On a full disk the rows wait, and are written as soon as there is space. Raise StorageError if a row cannot be
    written for another reason: unlike other trackers, this one is never disabled.
    """

    def __init__(self, run_dir: Path, report: Callable[[str], None]) -> None:
        self.metrics, self.samples = run_dir / "metrics.jsonl", run_dir / "samples.jsonl"
        self.report = report
        self._queue: deque[Row] = deque()
        self._disk_full = False

    def __call__(self, row: Row) -> None:
        self._queue.append(row)
        try:
            self.flush()
        except DiskFullError as error:
            if not self._disk_full:
                self.report(f"The training continues; its metrics are written once there is disk space: {error}")
            self._disk_full = True

    def flush(self) -> None:
        """Write the queued rows. Raise DiskFullError if there is no space; do not save a later step then."""
        while self._queue:
            row = self._queue[0]
            append_row(self.samples if row["kind"] == "sample" else self.metrics, dict(row))
            self._queue.popleft()
        self._disk_full = False


class TrackerGroup:
    """Pass each row to several trackers. One that fails is reported once and dropped, except the primary one."""

    def __init__(self, primary: Tracker, others: Sequence[Tracker], report: Callable[[str], None]) -> None:
        self.primary = primary
        self.others = list(others)
        self.report = report

    def __call__(self, row: Row) -> None:
        """Pass a row to all trackers."""
        self.primary(row)
        self.log_secondary(row)

    def log_secondary(self, row: Row) -> None:
        """Pass a row to all trackers except the primary one. Histograms would fill the run's own file."""
        for tracker in list(self.others):
            try:
                tracker(row)
            except Exception as error:  # noqa: BLE001 - foreign code must not stop a training
                self.others.remove(tracker)
                with suppress(OSError):  # standard error may be closed
                    self.report(f"{type(tracker).__name__} failed and is disabled for the rest of the run: {error}")


def scalars(row: Row) -> dict[str, float]:
    """Return the numbers of a row as ``KIND/NAME`` → value, e.g. ``validation/loss``.

    A row about one of several texts has its name in between: ``validation_also/stories/loss``.
    """
    values = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
    prefix = f"{row['kind']}/{row['name']}" if "name" in row else row["kind"]
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}
