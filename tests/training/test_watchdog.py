"""A training that hangs says where, once a step; one that rests says nothing."""

import queue
import threading
from typing import Any

from fabella.engine.ranks import Place
from fabella.training.train import Progress
from fabella.training.watchdog import Watchdog

PATIENCE = 20.0
SECONDS = 0.2
"""That a step may take, by a clock that the test sets; the watchdog looks every hundredth of a real second"""
SOME_LOOKS = 0.1
RESULT: Any = None


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watching(clock: Clock, place: Place) -> tuple[Watchdog, "queue.Queue[str]"]:
    said = queue.Queue[str]()
    return Watchdog(SECONDS, place, step=4, report=said.put, clock=clock), said


def test_one_that_hangs_says_after_which_step_and_what_its_threads_do() -> None:
    clock, over = Clock(), threading.Event()

    def reading_a_file_that_is_far_away() -> None:
        over.wait()

    reader = threading.Thread(target=reading_a_file_that_is_far_away, name="reader")
    reader.start()
    watchdog, said = watching(clock, Place(1, 2))
    with watchdog:
        clock.now = 1.0
        words = said.get(timeout=PATIENCE)
    over.set()
    reader.join()
    assert words.startswith("No step for 0 seconds after step 4 in process 1 of 2: it may hang. Ctrl-C ends it;")
    assert "\nreader:\n" in words
    assert "in reading_a_file_that_is_far_away" in words
    assert "\nMainThread:\n" in words
    assert "\nwatchdog:\n" not in words, "its own thread is of no interest"


def test_it_is_said_once_a_step_and_nothing_between_steps() -> None:
    clock, look = Clock(), threading.Event()
    watchdog, said = watching(clock, Place())
    with watchdog:
        clock.now = 1.0
        assert said.get(timeout=PATIENCE).startswith("No step for 0 seconds after step 4:")
        watchdog.watch(Progress(step=5), RESULT)
        watchdog.rest(Progress(step=5), RESULT)
        clock.now = 2.0  # validating, say
        look.wait(SOME_LOOKS)
        watchdog.watch(Progress(step=6), RESULT)
        clock.now = 3.0
        assert said.get(timeout=PATIENCE).startswith("No step for 0 seconds after step 6:")
        look.wait(SOME_LOOKS)
    assert said.empty()
