"""``metrics.jsonl`` and its like: one measurement a line, readable after any death of the process that wrote it."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabella.errors import CheckpointError
from fabella.storage import atomic_write, escaped, json_safe, storage_errors


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row as one line, visible to readers at once. Infinite numbers, which JSON lacks, become null.

    A line that a killed process left torn is dropped first. Raises StorageError; the file is then as it was.
    """
    line = (json.dumps(json_safe(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
    with storage_errors(path, f"writing {escaped(path.name)}", needed=len(line)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = _end_of_whole_lines(descriptor)
            _write_or_undo(descriptor, line, end)
        finally:
            os.close(descriptor)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows, none where there is no file. A last line without its end is left out: its writer was killed.

    Raises CheckpointError naming a damaged line.
    """
    return [_parsed(path, number, line) for number, line in enumerate(_whole_lines(path), start=1)]


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows of steps later than ``step``, and a torn last line; the rest stays byte for byte."""
    if not path.exists():
        return
    lines = _whole_lines(path)
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    kept = b"".join(line + b"\n" for line, row in zip(lines, rows, strict=True) if _step_of(row) <= step)
    if len(kept) != path.stat().st_size:
        atomic_write(path, kept)


def _step_of(row: Mapping[str, Any]) -> float:
    """A row that belongs to no step stays whatever is dropped."""
    step = row.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _whole_lines(path: Path) -> list[bytes]:
    with storage_errors(path, f"reading {escaped(path.name)}"):
        data = path.read_bytes() if path.exists() else b""
    return data.split(b"\n")[:-1]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise CheckpointError(
            f"{escaped(str(path), 500)}, line {number}: damaged, it is no JSON object.",
            hint="Remove that line to read the others.",
        )
    return row


def _end_of_whole_lines(descriptor: int) -> int:
    """Where the last whole line ends; looks back from the end of the file, so that a long file costs nothing."""
    size = os.fstat(descriptor).st_size
    position, block = size, 4096
    while position > 0:
        start = max(0, position - block)
        found = os.pread(descriptor, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _write_or_undo(descriptor: int, line: bytes, end: int) -> None:
    """Write at ``end``, dropping what lay beyond; where the disk is full, leave no half line."""
    if os.fstat(descriptor).st_size > end:
        os.ftruncate(descriptor, end)
    written = 0
    try:
        while written < len(line):
            written += os.pwrite(descriptor, line[written:], end + written)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
