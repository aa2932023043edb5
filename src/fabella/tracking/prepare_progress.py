"""What people see of preparing: a line that moves, then what was guessed, left out or found wrong."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fabella.data.prepare.progress import PrepareProgress
from fabella.tracking.console import ProgressLine, duration, print_status


class PrepareProgressLine:
    """Shows how far preparing has come; use it as a context, so that its last line stays."""

    def __init__(self) -> None:
        self._line = ProgressLine()

    def __call__(self, progress: PrepareProgress) -> None:
        self._line.update(in_words(progress))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()


def say_remarks(manifest: Mapping[str, Any]) -> None:
    """Say the notes and the doctor's warnings of prepared data."""
    for note in manifest["notes"]:
        print_status(note)
    for warning in manifest["data_quality"]["warnings"]:
        print_status(f"warning: {warning}")


def in_words(progress: PrepareProgress) -> str:
    """``encoding  42 %  12,345 documents  9.8 MB  21.3 MB/s  0:04 left``"""
    parts = [progress.doing]
    if progress.share >= 0:
        parts.append(f"{100 * progress.share:.0f} %")
    parts += [f"{progress.documents:,} documents", f"{progress.bytes / 1e6:,.1f} MB"]
    parts.append(f"{progress.bytes_per_second / 1e6:,.1f} MB/s")
    if progress.seconds_left >= 0:
        parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts)
