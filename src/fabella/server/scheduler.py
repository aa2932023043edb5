"""Scheduler of one model: one thread decodes the jobs of many requests in one batch and posts what each step adds."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabella.errors import FabellaError
from fabella.generation.continuous_batching import ContinuousBatcher, SampledToken, SequenceRequest
from fabella.generation.likelihood import PromptScores
from fabella.server.served_completion import Delta, Echo, ServedCompletion

# Decoding may raise our own errors, torch's (RuntimeError, also when memory runs out), and bugs of a model.
_FAILURES = (FabellaError, RuntimeError, MemoryError, ArithmeticError, LookupError, TypeError, ValueError)
_RECENT_JOBS = 32
"""Number of finished jobs whose mean duration estimates Retry-After."""


@dataclass(eq=False, slots=True)
class Job:
    """One sequence of a request. It leaves the batch when it ends, fails or is cancelled."""

    request: SequenceRequest
    completion: ServedCompletion
    on_event: Callable[[Delta | BaseException], None]
    """Called with each event by the receiver of ``post``."""
    echo: Echo | None = None
    """Prompt to return before the completion; the scheduler sets it to None once it has posted it."""
    created: float = field(default_factory=time.monotonic)


Events = list[tuple[Job, Delta | BaseException]]


class QueueFullError(Exception):
    """The queue has no space; ``seconds`` estimates when it will."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ClosedError(Exception):
    """The scheduler accepts no jobs any more, or its thread has ended."""


class Scheduler:
    """First come, first served: up to ``max_batch_size`` jobs run, each gets one token per step. Thread-safe."""

    def __init__(
        self,
        create_batcher: Callable[[], ContinuousBatcher],
        *,
        max_batch_size: int,
        max_queue_size: int,
        post: Callable[[Events], None],
        name: str,
        score_prompt: Callable[[Echo], PromptScores],
    ) -> None:
        """Start the thread.

        ``create_batcher``: returns an empty batcher of ``max_batch_size`` rows. ``post``: called at most twice per step
        in the scheduler's thread; must neither block nor raise. ``score_prompt``: scores an echoed prompt, in the
        scheduler's thread too.
        """
        self._score_prompt = score_prompt
        self._create_batcher, self._capacity, self._post = create_batcher, max_batch_size + max_queue_size, post
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._echoing: Job | None = None
        """Job that was taken from the queue to post its prompt; it goes back to its front."""
        self._running: dict[int, Job] = {}
        self._cancelled: set[Job] = set()
        self._closing = self._draining = False
        self._durations: deque[float] = deque(maxlen=_RECENT_JOBS)
        self.tokens = 0
        """Tokens sampled since the start."""
        self._batcher = create_batcher()
        self._thread = threading.Thread(target=self._run, name=f"decoding-{name}", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all jobs or none. Raises QueueFullError, or ClosedError after ``drain`` or ``close``."""
        with self._changed:
            if self._closing or self._draining:
                raise ClosedError
            if len(jobs) + self.running + self.waiting > self._capacity:
                raise QueueFullError(self._seconds_until_free())
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Remove jobs before the next step; those that have ended are ignored."""
        with self._changed:
            self._cancelled.update(jobs)
            self._changed.notify()

    def drain(self) -> None:
        """Accept no more jobs, finish those that were submitted, and end the thread. Does not wait."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread after the current step and wait for it; unfinished jobs get ClosedError."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Jobs in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting) + (self._echoing is not None)

    def _seconds_until_free(self) -> int:
        """Estimate from the mean duration of recent jobs when a row becomes free: 1 to 60 seconds."""
        mean = sum(self._durations) / len(self._durations) if self._durations else 1.0
        return max(1, min(60, round(mean * (1 + len(self._waiting)) / max(1, len(self._running)))))

    def _run(self) -> None:
        try:
            while self._prepare_step():
                self._step()
        finally:
            # Also when the thread dies of an unforeseen error: no client may wait for an event that never comes.
            with self._changed:
                self._closing = True
                unfinished = [*self._running.values(), *filter(None, [self._echoing]), *self._waiting]
                self._echoing = None
                self._running.clear()
                self._waiting.clear()
            self._post([(job, ClosedError()) for job in unfinished])

    def _prepare_step(self) -> bool:
        """Wait for work, remove cancelled jobs, admit queued ones; False at the end."""
        with self._changed:
            while not (self._closing or self._draining or self._cancelled or self._waiting or self._running):
                self._changed.wait()
            if self._closing or (self._draining and not (self._waiting or self._running)):
                return False
            for job in self._cancelled & set(self._waiting):
                self._waiting.remove(job)
            for number in [number for number, job in self._running.items() if job in self._cancelled]:
                self._remove(number)
            self._cancelled.clear()
            ended = self._admit()
        if ended:
            self._post(ended)
        return True

    def _admit(self) -> Events:
        """Move jobs from the queue into the batch; return the events of those that end without a token.

        At most one prompt is echoed per step: scoring takes as long as many decode steps, which others wait for.
        """
        ended: Events = []
        while self._waiting and self._batcher.free:
            job = self._waiting.popleft()
            if job.echo:
                self._echoing = job
                break
            if job.completion.max_tokens == 0:
                ended.append((job, job.completion.truncate()))
                continue
            try:
                self._running[self._batcher.add(job.request)] = job
            except FabellaError as error:
                ended.append((job, error))
        return ended

    def _echo(self, job: Job) -> None:
        """Post the prompt of a job, which then waits for its turn at the front of the queue."""
        assert job.echo
        try:
            event = job.echo.delta(self._score_prompt(job.echo) if job.echo.scored else None)
        except _FAILURES as error:
            event = error
        with self._changed:
            self._echoing = job.echo = None
            if isinstance(event, Delta):
                self._waiting.appendleft(job)
        self._post([(job, event)])

    def _step(self) -> None:
        if self._echoing:
            self._echo(self._echoing)
        if not self._running:
            return
        try:
            sampled = self._batcher.step()
        except _FAILURES as error:
            self._fail(error)
            return
        self.tokens += len(sampled)
        self._post([self._append(token) for token in sampled])

    def _append(self, sampled: SampledToken) -> tuple[Job, Delta]:
        job = self._running[sampled.request]
        delta = job.completion.append(sampled)
        if delta.finish_reason:
            with self._changed:
                self._remove(sampled.request)
        return job, delta

    def _remove(self, number: int) -> None:
        self._batcher.remove(number)
        job = self._running.pop(number)
        self._durations.append(time.monotonic() - job.created)

    def _fail(self, error: BaseException) -> None:
        """Fail all running jobs, because the batch's state is unknown now, and continue with a new batcher."""
        with self._changed:
            events: Events = [(job, error) for job in self._running.values()]
            self._running.clear()
        self._batcher = self._create_batcher()
        self._post(events)
