"""Tests that the rows of the fault matrix and the markers of the tests agree."""

import re
from pathlib import Path

from benchmarks.faults import GROUPS, ROWS

MARKED_ROW = re.compile(r"""\.fault\(\s*(?:row=)?["'](\w+)["']""")


def marked_rows() -> set[str]:
    """Return the rows that the fault markers of all tests name."""
    files = Path(__file__).parent.rglob("test_*.py")
    return {row for file in files for row in MARKED_ROW.findall(file.read_text(encoding="utf-8"))}


def test_every_marker_names_a_row_of_the_matrix() -> None:
    assert marked_rows() - set(ROWS) == set()


def test_every_row_of_the_matrix_has_a_test() -> None:
    assert set(ROWS) - marked_rows() == set()


def test_every_row_has_a_group() -> None:
    assert {row[0] for row in ROWS} == set(GROUPS)
