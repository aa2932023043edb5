"""Tests that lines of tables are numbered, and bounded in length."""

from collections.abc import Iterator

import pytest

from fabella.text.tables import rows as table_rows
from fabella.text.tables.rows import split_lines


def blocks(data: bytes, size: int = 0) -> Iterator[bytes]:
    size = size or max(7, len(data) // 9)
    return (data[i : i + size] for i in range(0, len(data), size))


def ignore(number: int, reason: str) -> None:
    """Do nothing about a broken line."""


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_numbered_and_complete(size: int) -> None:
    lines = list(split_lines(blocks(b"one\n\nthree\nfour", size), ignore))
    assert lines == [(1, b"one"), (2, b""), (3, b"three"), (4, b"four")]


def test_a_line_that_is_too_long_is_reported_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "LONGEST_LINE", 10)
    bad: list[tuple[int, str]] = []
    lines = list(
        split_lines(blocks(b"one\n" + b"x" * 100 + b"\nthree"), lambda number, reason: bad.append((number, reason)))
    )
    assert lines == [(1, b"one"), (3, b"three")]
    assert bad == [(2, "the line is longer than 10 bytes. Split it into several rows.")]
