"""Ctrl-C and termination: the first asks for an end after saving, a second ends at once. SIGUSR1 asks for a save."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fabella.tracking.console import print_status

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVE_NOW = getattr(signal, "SIGUSR1", None)
"""Signal that requests a checkpoint; None on Windows, which has no such signal."""


@dataclass(slots=True)
class Interruption:
    """What signals have asked for; the training looks at it after each step."""

    stop_requested: bool = False
    """An end, after saving."""
    save: bool = False
    """A checkpoint at this step, whatever the config says; then the training goes on."""

    def save_again(self) -> None:
        """Ask for another save at the next step: this one has failed. May be called on any thread."""
        self.save = True


@contextmanager
def handle_signals(
    *, force_on_second: bool = True, report: Callable[[str], None] = print_status
) -> Generator[Interruption]:
    """Handle the signals for as long as the block lasts (main thread only; elsewhere nothing is handled).

    ``force_on_second``: a second one ends at once. A launcher passes on signals that its processes have been given already;
    those do not count, and it is the launcher that ends them.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def ask(number: int, frame: FrameType | None) -> None:
        interruption.stop_requested = True
        if force_on_second:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        report("\nStopping after this step; everything is saved. Once more ends at once.")

    def save(number: int, frame: FrameType | None) -> None:
        interruption.save = True

    handlers = dict.fromkeys(SIGNALS, ask)
    if SAVE_NOW is not None:
        handlers[SAVE_NOW] = save
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
