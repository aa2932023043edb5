"""The contract of a sink, and how several are fed without one of them ever stopping a training."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fabella.errors import DiskFullError
from fabella.runs.metrics_log import append_row

Row = Mapping[str, Any]
"""One measurement: ``kind`` (train, validation, sample, spike, rewind, final, histograms), ``step``, and its values."""


class Tracker(Protocol):
    """Takes rows in the order they are measured."""

    def __call__(self, row: Row) -> None: ...


class JsonlTracker:
    """``metrics.jsonl`` and ``samples.jsonl`` of a run folder; every plot is drawn from them, and no row is ever lost.

    On a full disk the rows wait, which is said once, and are written as soon as there is room. Raises StorageError
    where a row cannot be written for another reason: unlike other sinks, this one is never dropped.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.metrics, self.samples = folder / "metrics.jsonl", folder / "samples.jsonl"
        self.report = report
        self._waiting: deque[Row] = deque()
        self._full = False

    def __call__(self, row: Row) -> None:
        self._waiting.append(row)
        try:
            self.flush()
        except DiskFullError as error:
            if not self._full:
                self.report(f"Measurements wait for room on the disk, and the training goes on: {error}")
            self._full = True

    def flush(self) -> None:
        """Write what waits. Raises DiskFullError where there still is no room: nothing later may be saved then."""
        while self._waiting:
            row = self._waiting[0]
            append_row(self.samples if row["kind"] == "sample" else self.metrics, dict(row))
            self._waiting.popleft()
        self._full = False


class TrackerGroup:
    """Gives each row to every sink. A sink that fails is reported once and dropped; the run's own file must hold."""

    def __init__(self, primary: Tracker, others: Sequence[Tracker], report: Callable[[str], None]) -> None:
        self.primary = primary
        self.others = list(others)
        self.report = report

    def __call__(self, row: Row) -> None:
        """A row for the run's own file and for everybody else."""
        self.primary(row)
        self.log_secondary(row)

    def log_secondary(self, row: Row) -> None:
        """A row for everybody but the run's own file: histograms, which would fill it."""
        for sink in list(self.others):
            try:
                sink(row)
            except Exception as error:  # noqa: BLE001 - a sink is anybody's code, and none may stop a training
                self.others.remove(sink)
                with suppress(OSError):  # nobody may be left to hear of it: standard error is closed
                    self.report(f"{type(sink).__name__} failed and is left out from here on: {error}")
