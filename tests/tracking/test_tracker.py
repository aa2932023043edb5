"""Tests that rows reach all trackers, and that a failing one is dropped with one message."""

import json
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.runs.metrics_log import read_rows
from fabella.tracking import tracker
from fabella.tracking.tracker import JsonlTracker, Row, TrackerGroup


class BrokenTracker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, row: Row) -> None:
        self.calls += 1
        raise OSError("no route to host")


def test_metrics_and_samples_are_written_to_separate_files(tmp_path: Path) -> None:
    write = JsonlTracker(tmp_path, print)
    write({"kind": "train", "step": 1, "loss": 2.5})
    write({"kind": "sample", "step": 1, "prompt": "Once", "text": "…"})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "step": 1, "loss": 2.5}
    assert json.loads((tmp_path / "samples.jsonl").read_text())["text"] == "…"


@pytest.mark.fault("D5", cases=1)
def test_rows_wait_on_a_full_disk_and_are_written_in_order_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    write, append_row = JsonlTracker(tmp_path, reports.append), tracker.append_row
    write({"kind": "train", "step": 1})

    def full(*arguments: object) -> None:
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(tracker, "append_row", full)
    for step in (2, 3):
        write({"kind": "train", "step": step})
    assert reports == [
        "The training continues; its metrics are written once there is disk space: disk full: nothing free."
    ]
    with pytest.raises(DiskFullError):
        write.flush()
    monkeypatch.setattr(tracker, "append_row", append_row)
    write({"kind": "train", "step": 4})
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_tracker_that_fails_is_reported_once_and_dropped() -> None:
    rows: list[Row] = []
    reports: list[str] = []
    broken = BrokenTracker()
    group = TrackerGroup(rows.append, [broken, rows.append], reports.append)
    group({"kind": "train", "step": 1})
    group({"kind": "train", "step": 2})
    assert len(rows) == 4
    assert broken.calls == 1
    assert reports == ["BrokenTracker failed and is disabled for the rest of the run: no route to host"]


def test_an_error_of_the_primary_tracker_is_raised() -> None:
    def full(row: Row) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError):
        TrackerGroup(full, [], print)({"kind": "train", "step": 1})


def test_any_error_of_a_tracker_is_contained_even_if_it_cannot_be_reported() -> None:
    class StrangeError(Exception):
        pass

    def strange(row: Row) -> None:
        raise StrangeError

    def closed(text: str) -> None:
        raise BrokenPipeError

    rows: list[Row] = []
    TrackerGroup(rows.append, [strange, rows.append], closed)({"kind": "train", "step": 1})
    assert len(rows) == 2


def test_secondary_rows_are_not_written_to_the_primary_tracker() -> None:
    primary: list[Row] = []
    secondary: list[Row] = []
    TrackerGroup(primary.append, [secondary.append], print).log_secondary({"kind": "histograms", "step": 1})
    assert (len(primary), len(secondary)) == (0, 1)
