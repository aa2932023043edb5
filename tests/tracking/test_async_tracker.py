"""A service on a thread of its own: whatever it does, the training is never stopped and never waits."""

import threading

import pytest

from fabella.tracking.async_tracker import AsyncTracker
from fabella.tracking.tracker import Row

LONG = 30.0
"""Seconds after which a test that waits for another thread gives up; it never waits that long when all is well."""


class Remembering:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.closed = False

    def __call__(self, row: Row) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.closed = True


class Stuck(Remembering):
    """Does not return from its first row until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Event(), threading.Event()

    def __call__(self, row: Row) -> None:
        self.entered.set()
        assert self.let_go.wait(LONG)
        super().__call__(row)


def rows(count: int) -> list[Row]:
    return [{"kind": "train", "step": step} for step in range(count)]


def test_every_row_arrives_in_order_and_the_service_is_closed() -> None:
    service, said = Remembering(), list[str]()
    sink = AsyncTracker("Service", lambda: service, said.append)
    for row in rows(100):
        sink(row)
    sink.close(silent=LONG, at_most=LONG)
    assert (service.rows, service.closed, said) == (rows(100), True, [])


@pytest.mark.parametrize("error", [OSError("no route to host\nat line 1"), ValueError("500"), SystemExit(1)])
def test_a_service_that_cannot_be_connected_to_is_reported_once(error: BaseException) -> None:
    def connect() -> Remembering:
        raise error

    said: list[str] = []
    sink = AsyncTracker("Service", connect, said.append)
    for row in rows(10):
        sink(row)
    sink.close(silent=LONG, at_most=LONG)
    assert said == [f"Service failed and is left out from here on: {str(error).splitlines()[0]}"]


def test_a_service_that_fails_on_the_way_is_given_nothing_more() -> None:
    class Failing(Remembering):
        def __call__(self, row: Row) -> None:
            super().__call__(row)
            if row["step"] == 3:
                raise OSError("disk full")

    service, said = Failing(), list[str]()
    sink = AsyncTracker("Service", lambda: service, said.append)
    for row in rows(10):
        sink(row)
    sink.close(silent=LONG, at_most=LONG)
    assert service.rows == rows(4)
    assert said == ["Service failed and is left out from here on: disk full"]


def test_of_a_service_that_hangs_the_oldest_rows_are_left_out_and_the_caller_never_waits() -> None:
    service, said = Stuck(), list[str]()
    sink = AsyncTracker("Service", lambda: service, said.append, waiting=5)
    sink(rows(1)[0])
    assert service.entered.wait(LONG)
    for row in rows(100)[1:]:
        sink(row)
    assert said == ["Service is too slow: its oldest rows are left out. metrics.jsonl has them all."]
    service.let_go.set()
    sink.close(silent=LONG, at_most=LONG)
    assert [row["step"] for row in service.rows] == [0, 95, 96, 97, 98, 99]


def test_the_end_waits_for_a_service_that_hangs_no_longer_than_it_may() -> None:
    service, said = Stuck(), list[str]()
    sink = AsyncTracker("Service", lambda: service, said.append)
    sink(rows(1)[0])
    assert service.entered.wait(LONG)
    sink.close(silent=0.0, at_most=0.0)
    assert said == [
        "Waiting for Service to finish, at most 0 seconds.",
        "Service did not finish in time and may lack the last rows. metrics.jsonl has them all.",
    ]
    service.let_go.set()
