"""What is handed over is done in order, on one thread; what goes wrong there is raised on the loop's own."""

import threading

import pytest

from fabella.errors import DiskFullError
from fabella.training.background import BackgroundWorker

LONG = 30.0
"""Seconds after which a test that waits for another thread gives up; it never waits that long when all is well."""


class Gate:
    """A task that waits until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.let_go.wait(LONG)


def fails() -> None:
    raise DiskFullError("disk full.")


def unheard(text: str) -> None:
    raise AssertionError(f"nothing was to be reported: {text}")


def test_tasks_are_done_in_order_on_another_thread() -> None:
    done: list[int] = []
    threads: set[threading.Thread] = set()
    with BackgroundWorker(unheard) as behind:
        for number in range(1000):
            behind.submit(lambda number=number: (done.append(number), threads.add(threading.current_thread()))[0])
    assert done == list(range(1000))
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_the_caller_goes_on_while_a_task_is_under_way_and_waits_where_too_many_wait() -> None:
    gate, handed = Gate(), threading.Event()
    with BackgroundWorker(unheard, waiting=2) as behind:
        behind.submit(gate)
        assert gate.entered.wait(LONG)
        for _ in range(2):
            behind.submit(lambda: None)  # these wait, and the caller does not
        caller = threading.Thread(target=lambda: (behind.submit(lambda: None), handed.set()))
        caller.start()
        assert not handed.is_set()
        gate.let_go.set()
        assert handed.wait(LONG)
        caller.join()


def test_drained_everything_handed_over_is_done() -> None:
    done: list[int] = []
    gate = Gate()
    with BackgroundWorker(unheard) as behind:
        behind.submit(gate)
        behind.submit(lambda: done.append(1))
        gate.let_go.set()
        behind.flush()
        assert done == [1]


@pytest.mark.parametrize(
    "ask", [BackgroundWorker.check, BackgroundWorker.flush, lambda behind: behind.do(lambda: None)]
)
def test_an_error_is_raised_on_the_callers_thread_at_every_later_call(ask: object) -> None:
    with pytest.raises(DiskFullError, match="disk full"), BackgroundWorker(unheard) as behind:  # noqa: PT012 - the context is it
        behind.submit(fails)
        behind._tasks.join()  # pyright: ignore[reportPrivateUsage]
        ask(behind)  # pyright: ignore[reportCallIssue]
        raise AssertionError("it was to be raised one line before")


def test_an_error_that_nobody_asked_for_is_raised_at_the_end() -> None:
    with pytest.raises(DiskFullError), BackgroundWorker(unheard) as behind:
        behind.submit(fails)


def test_after_an_error_nothing_more_is_done() -> None:
    done: list[int] = []
    gate = Gate()
    with pytest.raises(DiskFullError), BackgroundWorker(unheard) as behind:  # noqa: PT012
        behind.submit(gate)
        behind.submit(fails)
        behind.submit(lambda: done.append(1))
        gate.let_go.set()
    assert done == []


def test_an_error_of_the_caller_comes_first_and_that_of_a_task_is_reported() -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), BackgroundWorker(said.append) as behind:  # noqa: PT012
        behind.submit(fails)
        behind._tasks.join()  # pyright: ignore[reportPrivateUsage]
        raise ZeroDivisionError
    assert said == ["Besides: disk full."]


def test_any_exception_waits_for_what_was_handed_over() -> None:
    done: list[int] = []
    with pytest.raises(ZeroDivisionError), BackgroundWorker(unheard) as behind:  # noqa: PT012
        for number in range(100):
            behind.submit(lambda number=number: done.append(number))
        raise ZeroDivisionError
    assert done == list(range(100))


@pytest.mark.fault("C1", cases=1)
def test_an_end_at_once_finishes_the_task_under_way_and_drops_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    gate = Gate()
    drop = BackgroundWorker._drop_waiting  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(BackgroundWorker, "_drop_waiting", lambda behind: (drop(behind), gate.let_go.set()))
    with pytest.raises(KeyboardInterrupt), BackgroundWorker(unheard) as behind:  # noqa: PT012
        behind.submit(lambda: (gate(), done.append("under way"))[0])
        assert gate.entered.wait(LONG)
        behind.submit(lambda: done.append("waiting"))
        raise KeyboardInterrupt
    assert done == ["under way"]
