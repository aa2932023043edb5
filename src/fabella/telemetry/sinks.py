"""The contract of a sink, and how several are fed without one of them ever stopping a training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fabella.errors import StorageError
from fabella.runs.metrics import append_row

Row = Mapping[str, Any]
"""One measurement: ``kind`` (train, validation, sample, final), ``step``, and its values."""


class Sink(Protocol):
    """Takes rows in the order they are measured."""

    def __call__(self, row: Row) -> None: ...


class MetricsFile:
    """``metrics.jsonl`` and ``samples.jsonl`` of a run folder; every plot is drawn from them.

    Raises StorageError where a row cannot be written: unlike other sinks, this one is never dropped silently.
    """

    def __init__(self, folder: Path) -> None:
        self.metrics, self.samples = folder / "metrics.jsonl", folder / "samples.jsonl"

    def __call__(self, row: Row) -> None:
        append_row(self.samples if row["kind"] == "sample" else self.metrics, dict(row))


class Fan:
    """Gives each row to every sink. A sink that fails is reported once and dropped; the run's own file must hold."""

    def __init__(self, truth: Sink, others: Sequence[Sink], report: Callable[[str], None]) -> None:
        self.truth = truth
        self.others = list(others)
        self.report = report

    def __call__(self, row: Row) -> None:
        self.truth(row)
        for sink in list(self.others):
            try:
                sink(row)
            except (OSError, StorageError, RuntimeError, ValueError) as error:
                self.others.remove(sink)
                self.report(f"{type(sink).__name__} failed and is left out from here on: {error}")
