"""Tests that the watchdog reports a hanging step once, with the call stacks, and nothing between steps."""

import queue
import threading
from typing import Any

from fabella.engine.rank import RankInfo
from fabella.training.callbacks.watchdog import Watchdog
from fabella.training.loop import Progress

TIMEOUT_SECONDS = 20.0
STEP_SECONDS = 0.2
"""Time limit of a step on the fake clock. The watchdog checks it every hundredth of a real second."""
RESULT: Any = None


class FakeClock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_that_hangs_is_reported_with_the_call_stacks() -> None:
    clock, released, reports = FakeClock(), threading.Event(), queue.Queue[str]()

    def read_slow_file() -> None:
        released.wait()

    reader = threading.Thread(target=read_slow_file, name="reader", daemon=True)
    reader.start()
    with Watchdog(STEP_SECONDS, RankInfo(1, 2), step=4, report=reports.put, clock=clock):
        clock.now = 1.0
        report = reports.get(timeout=TIMEOUT_SECONDS)
    released.set()
    reader.join()
    assert report.startswith(
        "\nNo step for 0 seconds after step 4 in process 1 of 2: it may hang. Press Ctrl-C twice to end it"
    )
    assert "\nreader:\n" in report
    assert "in read_slow_file" in report
    assert "\nMainThread:\n" in report
    assert "\nwatchdog:\n" not in report, "the watchdog's own thread is not listed"


def test_a_hanging_step_is_reported_once_and_nothing_is_reported_between_steps() -> None:
    clock, reports = FakeClock(), list[str]()
    watchdog = Watchdog(STEP_SECONDS, RankInfo(), report=reports.append, clock=clock)
    for step in (5, 6):
        watchdog.step_started(Progress(step=step), RESULT)
        clock.now += STEP_SECONDS / 2
        watchdog.check()
        assert len(reports) == step - 5, "the limit is not reached yet"
        clock.now += STEP_SECONDS
        watchdog.check()
        watchdog.check()
        assert [report.split(": ")[0] for report in reports[step - 5 :]] == [
            f"\nNo step for 0 seconds after step {step}"
        ]
        watchdog.step_finished(Progress(step=step), RESULT)
        clock.now += 10 * STEP_SECONDS  # as in validation
        watchdog.check()
        assert len(reports) == step - 4
