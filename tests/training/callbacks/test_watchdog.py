"""A training that hangs says where, once a step; one that rests says nothing."""

import queue
import threading
from typing import Any

from fabella.engine.rank import RankInfo
from fabella.training.callbacks.watchdog import Watchdog
from fabella.training.loop import Progress

PATIENCE = 20.0
SECONDS = 0.2
"""That a step may take, by a clock that the test sets; the watchdog looks every hundredth of a real second"""
RESULT: Any = None


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_that_hangs_is_reported_with_the_call_stacks() -> None:
    clock, over, said = Clock(), threading.Event(), queue.Queue[str]()

    def reading_a_file_that_is_far_away() -> None:
        over.wait()

    reader = threading.Thread(target=reading_a_file_that_is_far_away, name="reader", daemon=True)
    reader.start()
    with Watchdog(SECONDS, RankInfo(1, 2), step=4, report=said.put, clock=clock):
        clock.now = 1.0
        words = said.get(timeout=PATIENCE)
    over.set()
    reader.join()
    assert words.startswith(
        "\nNo step for 0 seconds after step 4 in process 1 of 2: it may hang. Press Ctrl-C twice to end it"
    )
    assert "\nreader:\n" in words
    assert "in reading_a_file_that_is_far_away" in words
    assert "\nMainThread:\n" in words
    assert "\nwatchdog:\n" not in words, "its own thread is of no interest"


def test_it_is_said_once_a_step_and_nothing_between_steps() -> None:
    clock, said = Clock(), list[str]()
    watchdog = Watchdog(SECONDS, RankInfo(), report=said.append, clock=clock)
    for step in (5, 6):
        watchdog.step_started(Progress(step=step), RESULT)
        clock.now += SECONDS / 2
        watchdog.check()
        assert len(said) == step - 5, "there is time yet"
        clock.now += SECONDS
        watchdog.check()
        watchdog.check()
        assert [words.split(": ")[0] for words in said[step - 5 :]] == [f"\nNo step for 0 seconds after step {step}"]
        watchdog.step_finished(Progress(step=step), RESULT)
        clock.now += 10 * SECONDS  # validating, say
        watchdog.check()
        assert len(said) == step - 4
