"""Tests of BLiMP's files: even choice of pairs, fields, and errors for a wrong directory or line."""

import json
from pathlib import Path

import pytest

from fabella.errors import TextError
from fabella.evaluation.exam.blimp import blimp_items


def write(folder: Path, name: str, field: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"sentence_good": f"{name} {n}.", "sentence_bad": f"{name} bad {n}.", "field": field} for n in range(count)]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_pairs_are_spread_over_each_file_and_grouped_by_field(tmp_path: Path) -> None:
    write(tmp_path / "data", "one", "syntax", 100)
    write(tmp_path / "data", "two", "syntax", 3)
    write(tmp_path / "data", "three", "morphology", 5)
    items = blimp_items(tmp_path, pairs=4)
    assert list(items) == ["morphology", "syntax"]
    assert [item.choices[0] for item in items["syntax"]] == [
        "one 0.", "one 25.", "one 50.", "one 75.", "two 0.", "two 1.", "two 2.",
    ]  # fmt: skip
    assert items["morphology"][0].choices == ("three 0.", "three bad 0.")
    assert blimp_items(tmp_path / "data", pairs=4) == items


def test_a_directory_without_files_and_a_damaged_line_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"has no \.jsonl file of BLiMP") as error:
        blimp_items(tmp_path)
    assert "--blimp DIRECTORY" in error.value.hint
    for line in ("{", "[1]", '{"sentence_good": "A."}', '{"sentence_good": 1, "sentence_bad": "b", "field": "c"}'):
        (tmp_path / "x.jsonl").write_text(line)
        with pytest.raises(TextError, match=r"x\.jsonl, line 1, is no pair of BLiMP"):
            blimp_items(tmp_path)
