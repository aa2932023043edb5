"""Tests that the tables of the docs are those of the kept receipts, and that a receipt can be read anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import receipts

KEPT = sorted([*receipts.REPRODUCTIONS.glob("*/*.json"), *receipts.RACES.glob("*/*.json")])


def strings(value: Any) -> list[str]:
    """Return all strings in a JSON value."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    return [text for each in value for text in strings(each)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("name", receipts.TABLES)
def test_the_table_of_a_page_is_that_of_the_kept_receipts(name: str) -> None:
    page = (receipts.ROOT / name).read_text(encoding="utf-8")
    assert receipts.with_table(page, receipts.TABLES[name]()) == page
    assert receipts.with_table(page, "another table") != page


@pytest.mark.parametrize("path", KEPT, ids=[path.parent.name for path in KEPT])
def test_a_kept_receipt_names_no_path_of_a_machine(path: Path) -> None:
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert len(receipt["weights_sha256"]) == 64
    assert not [text for text in strings(receipt) if text.startswith("/") or "/home" in text]


def test_a_receipt_is_kept_under_the_name_and_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "REPRODUCTIONS", tmp_path / "kept")
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(SystemExit, match="has no receipt"):
        receipts.keep(run)
    (run / "reproduction.json").write_text('{"preset": "piny-37m", "seed": 3}')
    assert receipts.keep(run) == tmp_path / "kept/piny-37m-seed-3/reproduction.json"
