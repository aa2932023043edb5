"""What is handed over is done in order, on one thread; what goes wrong there is raised on the loop's own."""

import threading

import pytest

from fabella.errors import DiskFullError
from fabella.training.background import Behind

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
    with Behind(unheard) as behind:
        for number in range(1000):
            behind.do(lambda number=number: (done.append(number), threads.add(threading.current_thread()))[0])
    assert done == list(range(1000))
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_the_caller_goes_on_while_a_task_is_under_way_and_waits_where_too_many_wait() -> None:
    gate, handed = Gate(), threading.Event()
    with Behind(unheard, waiting=2) as behind:
        behind.do(gate)
        assert gate.entered.wait(LONG)
        for _ in range(2):
            behind.do(lambda: None)  # these wait, and the caller does not
        caller = threading.Thread(target=lambda: (behind.do(lambda: None), handed.set()))
        caller.start()
        assert not handed.is_set()
        gate.let_go.set()
        assert handed.wait(LONG)
        caller.join()


def test_drained_everything_handed_over_is_done() -> None:
    done: list[int] = []
    gate = Gate()
    with Behind(unheard) as behind:
        behind.do(gate)
        behind.do(lambda: done.append(1))
        gate.let_go.set()
        behind.drain()
        assert done == [1]


@pytest.mark.parametrize("ask", [Behind.check, Behind.drain, lambda behind: behind.do(lambda: None)])
def test_an_error_is_raised_on_the_callers_thread_at_every_later_call(ask: object) -> None:
    with pytest.raises(DiskFullError, match="disk full"), Behind(unheard) as behind:  # noqa: PT012 - the context is it
        behind.do(fails)
        behind._tasks.join()  # pyright: ignore[reportPrivateUsage]
        ask(behind)  # pyright: ignore[reportCallIssue]
        raise AssertionError("it was to be raised one line before")


def test_an_error_that_nobody_asked_for_is_raised_at_the_end() -> None:
    with pytest.raises(DiskFullError), Behind(unheard) as behind:
        behind.do(fails)


def test_after_an_error_nothing_more_is_done() -> None:
    done: list[int] = []
    gate = Gate()
    with pytest.raises(DiskFullError), Behind(unheard) as behind:  # noqa: PT012
        behind.do(gate)
        behind.do(fails)
        behind.do(lambda: done.append(1))
        gate.let_go.set()
    assert done == []


def test_an_error_of_the_caller_comes_first_and_that_of_a_task_is_reported() -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), Behind(said.append) as behind:  # noqa: PT012
        behind.do(fails)
        behind._tasks.join()  # pyright: ignore[reportPrivateUsage]
        raise ZeroDivisionError
    assert said == ["Besides: disk full."]


def test_any_exception_waits_for_what_was_handed_over() -> None:
    done: list[int] = []
    with pytest.raises(ZeroDivisionError), Behind(unheard) as behind:  # noqa: PT012
        for number in range(100):
            behind.do(lambda number=number: done.append(number))
        raise ZeroDivisionError
    assert done == list(range(100))


@pytest.mark.fault("C1", cases=1)
def test_an_end_at_once_finishes_the_task_under_way_and_drops_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    gate = Gate()
    drop = Behind._drop_waiting  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(Behind, "_drop_waiting", lambda behind: (drop(behind), gate.let_go.set()))
    with pytest.raises(KeyboardInterrupt), Behind(unheard) as behind:  # noqa: PT012
        behind.do(lambda: (gate(), done.append("under way"))[0])
        assert gate.entered.wait(LONG)
        behind.do(lambda: done.append("waiting"))
        raise KeyboardInterrupt
    assert done == ["under way"]
