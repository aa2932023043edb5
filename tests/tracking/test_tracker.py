"""Rows reach every sink; one that fails is dropped once, the run's own file never silently."""

import json
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.runs.metrics_log import read_rows
from fabella.tracking import tracker
from fabella.tracking.tracker import JsonlTracker, Row, TrackerGroup


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, row: Row) -> None:
        self.calls += 1
        raise OSError("no route to host")


def test_metrics_and_samples_go_to_files_of_their_own(tmp_path: Path) -> None:
    write = JsonlTracker(tmp_path, print)
    write({"kind": "train", "step": 1, "loss": 2.5})
    write({"kind": "sample", "step": 1, "prompt": "Once", "text": "…"})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "step": 1, "loss": 2.5}
    assert json.loads((tmp_path / "samples.jsonl").read_text())["text"] == "…"


@pytest.mark.fault("D5", cases=1)
def test_on_a_full_disk_rows_wait_and_are_written_in_order_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    write, whole = JsonlTracker(tmp_path, said.append), tracker.append_row
    write({"kind": "train", "step": 1})

    def full(*arguments: object) -> None:
        raise DiskFullError("disk full: nothing free.")

    monkeypatch.setattr(tracker, "append_row", full)
    for step in (2, 3):
        write({"kind": "train", "step": step})
    assert said == ["Measurements wait for room on the disk, and the training goes on: disk full: nothing free."]
    with pytest.raises(DiskFullError):
        write.flush()
    monkeypatch.setattr(tracker, "append_row", whole)
    write({"kind": "train", "step": 4})
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_sink_that_fails_is_reported_once_and_left_out() -> None:
    seen: list[Row] = []
    said: list[str] = []
    broken = Broken()
    fan = TrackerGroup(seen.append, [broken, seen.append], said.append)
    fan({"kind": "train", "step": 1})
    fan({"kind": "train", "step": 2})
    assert len(seen) == 4
    assert broken.calls == 1
    assert said == ["Broken failed and is left out from here on: no route to host"]


def test_the_runs_own_file_must_hold() -> None:
    def full(row: Row) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError):
        TrackerGroup(full, [], print)({"kind": "train", "step": 1})


def test_whatever_a_sink_raises_the_others_go_on_also_where_nobody_can_hear_of_it() -> None:
    class Strange(Exception):  # noqa: N818
        pass

    def strange(row: Row) -> None:
        raise Strange

    def closed(text: str) -> None:
        raise BrokenPipeError

    seen: list[Row] = []
    TrackerGroup(seen.append, [strange, seen.append], closed)({"kind": "train", "step": 1})
    assert len(seen) == 2


def test_what_goes_beside_is_not_in_the_runs_own_file() -> None:
    truth: list[Row] = []
    others: list[Row] = []
    TrackerGroup(truth.append, [others.append], print).log_secondary({"kind": "histograms", "step": 1})
    assert (len(truth), len(others)) == (0, 1)
