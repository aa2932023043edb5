"""Progress line, notes and warnings of data preparation."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fabella.data.prepare.progress import PrepareProgress
from fabella.storage import format_bytes, format_duration, number_of
from fabella.text.boundaries.preview import format_preview
from fabella.tracking.console import ProgressLine, print_status


class PrepareProgressLine:
    """Progress line of data preparation; a context manager, which ends the line."""

    def __init__(self) -> None:
        self._line = ProgressLine()

    def __call__(self, progress: PrepareProgress) -> None:
        self._line.update(format_progress(progress))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()


def print_notes(manifest: Mapping[str, Any]) -> None:
    """Print the notes and the data-quality warnings of a dataset's manifest."""
    for note in manifest["notes"]:
        print_status(note)
    facts = manifest["data_quality"]["facts"]
    print_status(f"{number_of(facts['documents'], 'document')}, {format_bytes(facts['bytes'])}, for example:")
    for line in format_preview(facts.get("preview", [])):
        print_status(line)
    for warning in manifest["data_quality"]["warnings"]:
        print_status(f"warning: {warning}")


def format_progress(progress: PrepareProgress) -> str:
    """Return e.g. ``encoding  42 %  12,345 documents  9.8 MB  21.3 MB/s  0:04 left``"""
    parts = [progress.phase]
    if progress.share >= 0:
        parts.append(f"{100 * progress.share:.0f} %")
    parts += [f"{progress.documents:,} documents", f"{progress.bytes / 1e6:,.1f} MB"]
    parts.append(f"{progress.bytes_per_second / 1e6:,.1f} MB/s")
    if progress.seconds_left >= 0:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    return "  ".join(parts)
