"""Append-only JSONL log (``metrics.jsonl``, ``samples.jsonl``), readable after a kill of its writer at any time."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabella.errors import CheckpointError
from fabella.storage import atomic_write, escaped, json_safe, storage_errors
from fabella.storage.atomic_file import write_all
from fabella.storage.temp_files import BINARY


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row as one line, visible to readers at once; NaN and infinity become null.

    An incomplete last line of a killed process is dropped first. Raises StorageError; then the file is unchanged.
    """
    line = (json.dumps(json_safe(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
    with storage_errors(path, f"writing {escaped(path.name)}", needed=len(line)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
        try:
            end = _end_of_complete_lines(descriptor)
            _write_or_undo(descriptor, line, end)
        finally:
            os.close(descriptor)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return all rows; empty if there is no file. An incomplete last line is ignored: its writer was killed.

    Raises CheckpointError naming a damaged line.
    """
    return [_parsed(path, number, line) for number, line in enumerate(_complete_lines(path), start=1)]


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows of steps after ``step`` and an incomplete last line; all other bytes are unchanged."""
    if not path.exists():
        return
    lines = _complete_lines(path)
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    content = b"".join(line + b"\n" for line, row in zip(lines, rows, strict=True) if _step_of(row) <= step)
    if len(content) != path.stat().st_size:
        atomic_write(path, content)


def truncate_logs(run_dir: Path, step: int) -> None:
    """Drop the rows of steps after ``step`` from metrics and samples of a run; they will be measured again.

    At step 0 so will be the losses before the first step.
    """
    for name in ("metrics.jsonl", "samples.jsonl"):
        truncate_after(run_dir / name, step or -1)


def _step_of(row: Mapping[str, Any]) -> float:
    """Return the step of a row; minus infinity without one, so that the row is never dropped."""
    step = row.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _complete_lines(path: Path) -> list[bytes]:
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
            f"{escaped(str(path), 500)}, line {number}: damaged: not a JSON object.",
            hint="Remove that line to read the others.",
        )
    return row


def _end_of_complete_lines(descriptor: int) -> int:
    """Return the end of the last complete line, searching backwards, so that the size of the file does not matter."""
    size = os.fstat(descriptor).st_size
    position, block = size, 4096
    while position > 0:
        start = max(0, position - block)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_or_undo(descriptor: int, line: bytes, end: int) -> None:
    """Write at ``end`` and drop the bytes after it; on an error, leave no incomplete line."""
    if os.fstat(descriptor).st_size > end:
        os.ftruncate(descriptor, end)
    os.lseek(descriptor, end, os.SEEK_SET)
    try:
        write_all(descriptor, line)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
