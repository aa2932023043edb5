"""Tests that rows are one line each and remain readable if the writer is killed at any time."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import CheckpointError, DiskFullError
from fabella.runs.metrics_log import append_row, read_rows, truncate_after

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ROWS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)


@given(ROWS)
def test_appended_rows_can_be_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    for row in rows:
        append_row(path, row)
    assert read_rows(path) == rows


def test_a_row_is_one_line_and_written_immediately(tmp_path: Path) -> None:
    append_row(tmp_path / "samples.jsonl", {"step": 1, "text": "Ça va ?\nFin\u2028"})
    assert (tmp_path / "samples.jsonl").read_text(encoding="utf-8") == ('{"step": 1, "text": "Ça va ?\\nFin\u2028"}\n')


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"loss": float("nan"), "each": [float("inf"), 1.5], "of": {"deep": float("-inf")}})
    assert read_rows(path) == [{"loss": None, "each": [None, 1.5], "of": {"deep": None}}]


def test_text_with_lone_surrogates_is_escaped(tmp_path: Path) -> None:
    append_row(tmp_path / "samples.jsonl", {"text": "half \ud83d"})
    assert read_rows(tmp_path / "samples.jsonl") == [{"text": "half \ud83d"}]


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.jsonl") == []
    truncate_after(tmp_path / "metrics.jsonl", 10)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.fault("D6", cases=100)
def test_a_line_torn_at_any_byte_is_skipped_and_replaced_by_the_next_row(tmp_path: Path) -> None:
    line = json.dumps({"kind": "train", "step": 2, "loss": 3.25, "words": "x" * 45}).encode() + b"\n"
    assert len(line) == 101
    for cut in range(100):
        path = tmp_path / f"{cut}.jsonl"
        append_row(path, {"step": 1})
        with path.open("ab") as file:
            file.write(line[:cut])
        assert read_rows(path) == [{"step": 1}]
        append_row(path, {"step": 3})
        assert read_rows(path) == [{"step": 1}, {"step": 3}]


def test_a_torn_line_longer_than_a_block_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    append_row(path, {"step": 1})
    with path.open("ab") as file:
        file.write(b'{"text": "' + b"a" * 10_000)
    append_row(path, {"step": 2})
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b"torn from the first byte on" * 1000)
    append_row(path, {"step": 3})
    assert read_rows(path) == [{"step": 3}]


@pytest.mark.parametrize("damage", [b"{]", b"", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_line_is_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2: damaged: not a JSON object\. Remove"):
        read_rows(path)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1})
    write, calls = os.write, list[int]()

    def fills_up(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:5])

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(DiskFullError, match=r"disk full: writing metrics.jsonl needs 12 bytes"):
        append_row(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n'


def test_rows_of_later_steps_are_dropped_and_the_others_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"note":   "of no step"}',
        b'{"step": 1, "loss": 2.50}',
        b'{"step": 2.0}',
        b'{"step": 3}',
        b'{"step": 2, "kind": "validation"}',
    ]
    path.write_bytes(b"\n".join(lines) + b'\n{"torn')
    truncate_after(path, 2)
    assert path.read_bytes() == b"\n".join([*lines[:3], lines[4]]) + b"\n"
    truncate_after(path, 0)
    assert path.read_bytes() == lines[0] + b"\n"


def test_a_file_without_later_rows_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1})
    monkeypatch.setattr("fabella.runs.metrics_log.atomic_write", lambda path, data: pytest.fail("written"))
    truncate_after(path, 1)
