"""Texts of many requests told side by side by one thread: requests in, pieces out, cancelled between two tokens."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabella.errors import FabellaError
from fabella.generation.continuous_batching import ContinuousBatcher, SampledToken, SequenceRequest
from fabella.server.delta_stream import ActiveCompletion, Delta

# What decoding may raise: our own errors, torch's (memory that ends among them), and bugs of a model.
_FAILURES = (FabellaError, RuntimeError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError)
_ENDED_LATELY = 32


@dataclass(eq=False, slots=True)
class Job:
    """A text that was asked for; its place is freed when it ends, fails or is cancelled."""

    request: SequenceRequest
    told: ActiveCompletion
    on_event: Callable[[Delta | BaseException], None]
    """Called by whoever ``post`` gives the news to"""
    came: float = field(default_factory=time.monotonic)


News = list[tuple[Job, Delta | BaseException]]


class QueueFullError(Exception):
    """No text can be taken now; ``seconds`` until a place may be free."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ClosedError(Exception):
    """No text is told any more."""


class Scheduler:
    """First come, first served, up to ``together`` texts at once, each a token a step. Methods are for any thread."""

    def __init__(
        self,
        slots: Callable[[], ContinuousBatcher],
        *,
        together: int,
        waiting: int,
        post: Callable[[News], None],
        name: str,
    ) -> None:
        """``slots``: makes empty places for ``together`` texts. ``post``: called once a step, in this thread, and must
        neither block nor fail."""
        self._make_slots, self._most, self._post = slots, together + waiting, post
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._gone: set[Job] = set()
        self._closing = self._retiring = False
        self._lasted: deque[float] = deque(maxlen=_ENDED_LATELY)
        self.tokens = 0
        """Chosen since the beginning"""
        self._slots = slots()
        self._thread = threading.Thread(target=self._run, name=f"telling-{name}", daemon=True)
        self._thread.start()

    def submit(self, tickets: Sequence[Job]) -> None:
        """Take all of these texts, or raise FullError; ClosedError at the end."""
        with self._changed:
            if self._closing or self._retiring:
                raise ClosedError
            if len(tickets) + self._taken() > self._most:
                raise QueueFullError(self._seconds_until_free())
            self._waiting.extend(tickets)
            self._changed.notify()

    def cancel(self, tickets: Sequence[Job]) -> None:
        """Free the places of these texts before the next token; nothing happens to those that have ended."""
        with self._changed:
            self._gone.update(tickets)
            self._changed.notify()

    def drain(self) -> None:
        """Tell what was asked for to its end, take nothing more, and end the thread."""
        with self._changed:
            self._retiring = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its step; texts that are still told are not ended, only left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether texts are told."""
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Texts that have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Texts that wait for one."""
        return len(self._waiting)

    def _taken(self) -> int:
        return len(self._running) + len(self._waiting)

    def _seconds_until_free(self) -> int:
        """A place is free as often as texts ended lately; between a second and a minute."""
        mean = sum(self._lasted) / len(self._lasted) if self._lasted else 1.0
        return max(1, min(60, round(mean * (1 + len(self._waiting)) / max(1, len(self._running)))))

    def _run(self) -> None:
        try:
            while self._orders():
                self._step()
        finally:
            # Also where the thread dies of something unforeseen: nobody waits for a text that will never come.
            with self._changed:
                self._closing = True
                left = [*self._running.values(), *self._waiting]
                self._running.clear()
                self._waiting.clear()
            self._post([(ticket, ClosedError()) for ticket in left])

    def _orders(self) -> bool:
        """Wait for work, let go what was cancelled, give places to those who wait; False at the end."""
        with self._changed:
            while not (self._closing or self._retiring or self._gone or self._waiting or self._running):
                self._changed.wait()
            if self._closing or (self._retiring and not (self._waiting or self._running)):
                return False
            for ticket in self._gone & set(self._waiting):
                self._waiting.remove(ticket)
            for number in [number for number, ticket in self._running.items() if ticket in self._gone]:
                self._leave(number)
            self._gone.clear()
            refused = self._admit()
        if refused:
            self._post(refused)
        return True

    def _admit(self) -> News:
        refused: News = []
        while self._waiting and self._slots.free:
            ticket = self._waiting.popleft()
            try:
                self._running[self._slots.add(ticket.request)] = ticket
            except FabellaError as error:
                refused.append((ticket, error))
        return refused

    def _step(self) -> None:
        if not self._running:
            return
        try:
            choices = self._slots.step()
        except _FAILURES as error:
            self._fail(error)
            return
        self.tokens += len(choices)
        self._post([self._take(choice) for choice in choices])

    def _take(self, choice: SampledToken) -> tuple[Job, Delta]:
        ticket = self._running[choice.request]
        piece = ticket.told.append(choice)
        if piece.ended_by:
            with self._changed:
                self._leave(choice.request)
        return ticket, piece

    def _leave(self, number: int) -> None:
        self._slots.remove(number)
        ticket = self._running.pop(number)
        self._lasted.append(time.monotonic() - ticket.came)

    def _fail(self, error: BaseException) -> None:
        """The state of the places is unknown now: those in them fail, whoever waits goes on in new ones."""
        with self._changed:
            news: News = [(ticket, error) for ticket in self._running.values()]
            self._running.clear()
        self._slots = self._make_slots()
        self._post(news)
