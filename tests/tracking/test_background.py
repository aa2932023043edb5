"""Tests that background tasks run in order on one thread, and that their errors are raised on the caller's thread."""

import threading

import pytest

from fabella.errors import DiskFullError
from fabella.tracking.background import BackgroundWorker, NullWorker

LONG = 30.0
"""Timeout in seconds of a test that waits for another thread; reached only if the test fails."""


class Gate:
    """Task that blocks until ``opened`` is set."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(LONG)


def fails() -> None:
    raise DiskFullError("disk full.")


def fail_on_report(text: str) -> None:
    raise AssertionError(f"unexpected report: {text}")


def test_tasks_run_in_order_on_another_thread() -> None:
    done: list[int] = []
    threads: set[threading.Thread] = set()
    with BackgroundWorker(fail_on_report) as worker:
        for number in range(1000):
            worker.submit(lambda number=number: (done.append(number), threads.add(threading.current_thread()))[0])
    assert done == list(range(1000))
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_submit_blocks_only_if_the_queue_is_full() -> None:
    gate, submitted = Gate(), threading.Event()
    with BackgroundWorker(fail_on_report, capacity=2) as worker:
        worker.submit(gate)
        assert gate.entered.wait(LONG)
        for _ in range(2):
            worker.submit(lambda: None)  # queued without blocking
        caller = threading.Thread(target=lambda: (worker.submit(lambda: None), submitted.set()))
        caller.start()
        assert not submitted.is_set()
        gate.opened.set()
        assert submitted.wait(LONG)
        caller.join()


def test_flush_waits_for_all_submitted_tasks() -> None:
    done: list[int] = []
    gate = Gate()
    with BackgroundWorker(fail_on_report) as worker:
        worker.submit(gate)
        worker.submit(lambda: done.append(1))
        gate.opened.set()
        worker.flush()
        assert done == [1]


@pytest.mark.parametrize(
    "call", [BackgroundWorker.check, BackgroundWorker.flush, lambda worker: worker.submit(lambda: None)]
)
def test_an_error_is_raised_on_the_callers_thread_at_every_later_call(call: object) -> None:
    with pytest.raises(DiskFullError, match="disk full"), BackgroundWorker(fail_on_report) as worker:  # noqa: PT012 - the context is it
        worker.submit(fails)
        worker._wait_until_idle()  # pyright: ignore[reportPrivateUsage]
        call(worker)  # pyright: ignore[reportCallIssue]
        raise AssertionError("not reached")


def test_an_unread_error_is_raised_at_the_end_of_the_context() -> None:
    with pytest.raises(DiskFullError), BackgroundWorker(fail_on_report) as worker:
        worker.submit(fails)


def test_no_task_runs_after_an_error() -> None:
    done: list[int] = []
    gate = Gate()
    with pytest.raises(DiskFullError), BackgroundWorker(fail_on_report) as worker:  # noqa: PT012
        worker.submit(gate)
        worker.submit(fails)
        worker.submit(lambda: done.append(1))
        gate.opened.set()
    assert done == []


def test_an_error_of_the_caller_is_raised_and_that_of_a_task_is_reported() -> None:
    reports: list[str] = []
    with pytest.raises(ZeroDivisionError), BackgroundWorker(reports.append) as worker:  # noqa: PT012
        worker.submit(fails)
        worker._wait_until_idle()  # pyright: ignore[reportPrivateUsage]
        raise ZeroDivisionError
    assert reports == ["A background task failed, too: disk full."]


def test_any_other_exception_waits_for_the_submitted_tasks() -> None:
    done: list[int] = []
    with pytest.raises(ZeroDivisionError), BackgroundWorker(fail_on_report) as worker:  # noqa: PT012
        for number in range(100):
            worker.submit(lambda number=number: done.append(number))
        raise ZeroDivisionError
    assert done == list(range(100))


@pytest.mark.fault("C1", cases=1)
def test_keyboard_interrupt_finishes_the_running_task_and_drops_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    gate = Gate()
    drop = BackgroundWorker._drop_queued  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(BackgroundWorker, "_drop_queued", lambda worker: (drop(worker), gate.opened.set()))
    with pytest.raises(KeyboardInterrupt), BackgroundWorker(fail_on_report) as worker:  # noqa: PT012
        worker.submit(lambda: (gate(), done.append("running"))[0])
        assert gate.entered.wait(LONG)
        worker.submit(lambda: done.append("queued"))
        raise KeyboardInterrupt
    assert done == ["running"]


def test_a_full_queue_may_drop_the_oldest_task() -> None:
    done: list[int] = []
    gate = Gate()
    with BackgroundWorker(fail_on_report, when_full="drop_oldest", capacity=2) as worker:
        worker.submit(gate)
        assert gate.entered.wait(LONG)
        kept = [worker.submit(lambda number=number: done.append(number)) for number in range(4)]
        gate.opened.set()
    assert kept == [True, True, False, False]
    assert done == [2, 3]


def test_an_error_handler_receives_the_first_error_and_the_caller_none() -> None:
    errors: list[BaseException] = []
    done: list[int] = []
    with BackgroundWorker(fail_on_report, on_error=errors.append, on_close=lambda: done.append(0)) as worker:
        worker.submit(fails)
        worker.flush()
        worker.submit(lambda: done.append(1))
    assert [str(error) for error in errors] == ["disk full."]
    assert done == []


def test_close_gives_up_after_its_timeout() -> None:
    gate = Gate()
    worker = BackgroundWorker(fail_on_report)
    worker.submit(gate)
    assert not worker.close(0.0)
    gate.opened.set()
    assert worker.close(LONG)


def test_the_null_worker_runs_nothing() -> None:
    with NullWorker() as worker:
        assert worker.submit(fails)
        worker.flush()
        worker.check()
