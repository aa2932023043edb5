"""Tests that an asynchronous tracker neither stops nor blocks the training, even if it fails or hangs."""

import threading

import pytest

from fabella.tracking.async_tracker import AsyncTracker
from fabella.tracking.tracker import Row

LONG = 30.0
"""Timeout in seconds of a test that waits for another thread; reached only if the test fails."""


class RecordingTracker:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.closed = False

    def __call__(self, row: Row) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.closed = True


class HangingTracker(RecordingTracker):
    """Tracker that blocks until ``opened`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, row: Row) -> None:
        self.entered.set()
        assert self.opened.wait(LONG)
        super().__call__(row)


def rows(count: int) -> list[Row]:
    return [{"kind": "train", "step": step} for step in range(count)]


def test_rows_arrive_in_order_and_the_tracker_is_closed() -> None:
    remote, reports = RecordingTracker(), list[str]()
    tracker = AsyncTracker("Service", lambda: remote, reports.append)
    for row in rows(100):
        tracker(row)
    tracker.close(silent=LONG, at_most=LONG)
    assert (remote.rows, remote.closed, reports) == (rows(100), True, [])


@pytest.mark.parametrize("error", [OSError("no route to host\nat line 1"), ValueError("500"), SystemExit(1)])
def test_a_failed_connection_is_reported_once(error: BaseException) -> None:
    def connect() -> RecordingTracker:
        raise error

    reports: list[str] = []
    tracker = AsyncTracker("Service", connect, reports.append)
    for row in rows(10):
        tracker(row)
    tracker.close(silent=LONG, at_most=LONG)
    assert reports == [f"Service failed and is disabled for the rest of the run: {str(error).splitlines()[0]}"]


def test_a_tracker_that_fails_receives_no_further_rows() -> None:
    class FailingTracker(RecordingTracker):
        def __call__(self, row: Row) -> None:
            super().__call__(row)
            if row["step"] == 3:
                raise OSError("disk full")

    remote, reports = FailingTracker(), list[str]()
    tracker = AsyncTracker("Service", lambda: remote, reports.append)
    for row in rows(10):
        tracker(row)
    tracker.close(silent=LONG, at_most=LONG)
    assert remote.rows == rows(4)
    assert reports == ["Service failed and is disabled for the rest of the run: disk full"]


def test_a_tracker_that_hangs_loses_its_oldest_rows_and_does_not_block_the_caller() -> None:
    remote, reports = HangingTracker(), list[str]()
    tracker = AsyncTracker("Service", lambda: remote, reports.append, capacity=5)
    tracker(rows(1)[0])
    assert remote.entered.wait(LONG)
    for row in rows(100)[1:]:
        tracker(row)
    assert reports == ["Service is too slow: its oldest rows are dropped. metrics.jsonl has all of them."]
    remote.opened.set()
    tracker.close(silent=LONG, at_most=LONG)
    assert [row["step"] for row in remote.rows] == [0, 95, 96, 97, 98, 99]


def test_closing_waits_for_a_tracker_that_hangs_only_until_the_timeout() -> None:
    remote, reports = HangingTracker(), list[str]()
    tracker = AsyncTracker("Service", lambda: remote, reports.append)
    tracker(rows(1)[0])
    assert remote.entered.wait(LONG)
    tracker.close(silent=0.0, at_most=0.0)
    assert reports == [
        "Waiting for Service to finish, at most 0 seconds.",
        "Service did not finish in time; its last rows may be missing. metrics.jsonl has all of them.",
    ]
    remote.opened.set()
