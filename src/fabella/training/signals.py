"""Stop and save signals, and their synchronization between ranks.

The first Ctrl-C or SIGTERM stops the training after the current step and saves it; a second one ends the process at
once. SIGUSR1 saves a checkpoint. A platform without SIGUSR1 (Windows) has no save signal.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, final

from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import StepResult
from fabella.tracking.console import print_status
from fabella.training.loop import Progress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVE_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
CONTINUE, SAVE, STOP = 0, 1, 2
"""Votes of a rank; the maximum of all ranks decides."""


@dataclass(slots=True)
class Signals:
    """Requests that this process has received."""

    stop_requested: bool = False
    """End the training after saving."""
    save_requested: bool = False
    """Save a checkpoint at the next step, in addition to the scheduled ones."""


@contextmanager
def handle_signals(*, force_on_second: bool = True, report: Callable[[str], None] = print_status) -> Generator[Signals]:
    """Handle signals within the block. Outside the main thread, Python allows no handlers: nothing is handled.

    ``force_on_second``: a second stop signal ends the process at once. Set it to False for ranks started by a launcher:
    it forwards signals that they have received already, and ends them itself.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        signals.stop_requested = True
        if force_on_second:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        report("\nStopping after this step; everything will be saved. Press Ctrl-C again to end at once.")

    def request_save(number: int, frame: FrameType | None) -> None:
        signals.save_requested = True

    handlers: dict[signal.Signals, Any] = dict.fromkeys(STOP_SIGNALS, request_stop)
    if SAVE_SIGNAL is not None:
        handlers[SAVE_SIGNAL] = request_save
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@final
class SyncedSignals:
    """Callback that synchronizes stop and save requests, so that all ranks act at the same step.

    A request takes effect at once in a single process and one step later in a process group, because
    ``ProcessGroup.poll_max`` returns the votes of the previous call and does not block.
    """

    def __init__(self, signals: Signals, process_group: ProcessGroup) -> None:
        self.signals, self.process_group = signals, process_group
        self.stop_requested = False
        """Same on all ranks"""
        self.save_requested = False
        """Same on all ranks"""

    def __call__(self, progress: Progress, result: StepResult) -> None:
        vote = STOP if self.signals.stop_requested else SAVE if self.signals.save_requested else CONTINUE
        if vote == SAVE:
            self.signals.save_requested = False
        decision = self.process_group.poll_max(vote)
        self.stop_requested, self.save_requested = decision == STOP, decision == SAVE

    def stop_requested_anywhere(self) -> bool:
        """Return whether any rank has received a stop signal until now. All ranks call this after the last step."""
        earlier = self.process_group.poll_max(STOP if self.signals.stop_requested else CONTINUE)
        return STOP in (earlier, self.process_group.poll_max(CONTINUE))

    def retry_save(self) -> None:
        """Request a save at the next step, because this one has failed. Can be called from any thread."""
        self.signals.save_requested = True
