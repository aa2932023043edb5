"""Tests that every kind of the text zoo is read as it must be, and that the page in docs shows the same."""

import re
from pathlib import Path

import pytest

from benchmarks.text_zoo import chat_kinds, plain_kinds, table_kinds
from benchmarks.text_zoo.__main__ import PAGE, SECTIONS
from benchmarks.text_zoo.kind import Kind, examine, write_files

KINDS = [*plain_kinds.KINDS, *table_kinds.KINDS, *chat_kinds.KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_file_is_read_as_it_must_be(kind: Kind, tmp_path: Path) -> None:
    write_files(kind, tmp_path)
    assert list(examine(kind, tmp_path).problems) == []


def test_a_difference_is_a_problem(tmp_path: Path) -> None:
    kind = Kind("wrong", {"a.txt": b"One fox.\n\nTwo foxes."}, ["One fox."], "a.txt", notes=["never printed"])
    write_files(kind, tmp_path)
    problems = examine(kind, tmp_path).problems
    assert len(problems) == 2
    assert examine(Kind("sound", kind.files, source="a.txt", refused="no text"), tmp_path).problems


def test_the_page_has_every_kind_and_all_pass() -> None:
    assert len(KINDS) >= 80
    assert len({kind.name for kind in KINDS}) == len(KINDS) == sum(map(len, SECTIONS.values()))
    page = PAGE.read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if re.match(r"\| (?!kind \|)\w", row)]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        kind.name for kinds in SECTIONS.values() for kind in kinds
    ]
    assert all(row.endswith("| yes |") for row in rows)
