"""Ctrl-C and termination: the first asks for an end after saving, a second ends at once."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fabella.telemetry.terminal import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Interruption:
    """``asked`` becomes true with the first signal; the training looks at it after each step."""

    asked: bool = False


@contextmanager
def interruptible() -> Generator[Interruption]:
    """Handle the signals for as long as the block lasts (main thread only; elsewhere nothing is handled)."""
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        interruption.asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        say("\nStopping after this step; everything is saved. Once more ends at once.")

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
