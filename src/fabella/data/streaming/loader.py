"""Batches of a stream, read by a process of its own ahead of the training: it takes no time of the training's Python,
and can be ended even where it waits for a network that does not answer."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from fabella.config.data import DataConfig, Streaming
from fabella.data.batches import Batch
from fabella.data.pipe_messages import receive, send
from fabella.data.streaming import reader_process
from fabella.errors import ConfigError, DataError, FabellaError, PreparedDataError, TextError, TokenizerError
from fabella.text.source import describe

KINDS: dict[str, type[FabellaError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, PreparedDataError, TextError, TokenizerError)
}


class ReaderEndedError(DataError):
    """The process that reads a stream was killed, crashed, or hangs."""


class StreamingLoader(Iterator[Batch]):
    """An iterator over batches that can be closed at any time; its process and its thread then end."""

    def __init__(self, data: DataConfig, tokenizer: Path, seed: int, start: str, sizes: Iterator[int]) -> None:
        assert isinstance(data.mode, Streaming), "a stream is asked for"
        self._patience = data.mode.timeout_seconds
        self._sizes, self._windows = sizes, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fabella-stream")
        self._waiting: deque[tuple[Future[Batch], str]] = deque()
        self._reader: _Reader | None = None
        try:
            self._reader = _Reader(data, tokenizer, seed, start)
            for _ in range(data.mode.prefetch_batches):
                self._ask(self._reader)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that reads; 0 once it is closed."""
        return self._reader.pid if self._reader else 0

    def __next__(self) -> Batch:
        if not self._waiting or self._reader is None:
            self.close()
            raise StopIteration
        future, which = self._waiting.popleft()
        try:
            batch = future.result(timeout=self._patience)
            self._ask(self._reader)
        except TimeoutError:
            who = str(self._reader)
            self.close()
            raise ReaderEndedError(
                f"{who} has been silent for {self._patience:g} s while reading {which}.",
                hint="Look at the source or the network, or raise data.mode.timeout_seconds; then: fabella resume.",
            ) from None
        except BaseException:
            self.close()
            raise
        return batch

    def _ask(self, reader: "_Reader") -> None:
        """Have the next batch made, if there is another."""
        for size in self._sizes:
            which = f"windows {self._windows + 1:,} to {self._windows + size:,} since it was started"
            self._waiting.append((self._thread.submit(reader.batch, size, which), which))
            self._windows += size
            return

    def close(self) -> None:
        """End the process and the thread, and wait for both. Safe to call twice."""
        self._waiting.clear()
        self._sizes = iter(())
        if self._reader is not None:
            self._reader.end()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def stream_feed(data: DataConfig, tokenizer: Path, seed: int, start: str, sizes: Iterator[int]) -> StreamingLoader:
    """Batches of ``sizes`` windows each, from where ``start`` (``Batch.stream``; empty: the beginning) stands.

    ``tokenizer`` is the folder of a saved one. At most ``data.mode.prefetch_batches`` batches wait. ``next`` raises what went
    wrong in reading: TextError, TokenizerError, or ReaderEndedError where the process died or is silent. Close it.
    """
    return StreamingLoader(data, tokenizer, seed, start, sizes)


@contextlib.contextmanager
def _signals_blocked() -> Generator[None]:
    """What is started within never hears the signals that are for the training, not even before it can ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, reader_process.FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reader:
    """The process, its pipes, and what it was asked to read."""

    def __init__(self, data: DataConfig, tokenizer: Path, seed: int, state: str) -> None:
        self._name = describe(data.source)
        self._lock = threading.Lock()
        asked = {
            "data": data.model_dump(mode="json"),
            "tokenizer": str(tokenizer.absolute()),
            "seed": seed,
            "state": state,
        }
        self._asked: bytes | None = json.dumps(asked).encode()
        # -P: a file of the user's folder must not stand in for a module. Its own process group: Ctrl-C is not for it.
        command = [sys.executable, "-P", "-m", reader_process.__name__]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            with _signals_blocked():
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
                )
        except OSError as error:
            raise ReaderEndedError(f"The reader of {self._name} could not be started: {error.strerror}.") from error
        self.pid = self._process.pid

    def batch(self, size: int, which: str) -> Batch:
        """Ask for ``size`` windows and wait for them."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None, "a pipe was asked for"
        assert answers is not None, "a pipe was asked for"
        try:
            if self._asked is not None:
                send(requests, self._asked)
                self._asked = None
            send(requests, str(size).encode())
            kind, *parts = receive(answers)
        except (OSError, EOFError, ValueError) as error:
            raise self._ended(which) from error
        if kind == reader_process.FAILED:
            name, problem, fix = (part.decode() for part in parts)
            raise KINDS.get(name, DataError)(problem, hint=fix)
        shape, tokens, targets, stream = parts
        both = (np.frombuffer(ids, np.int32).reshape(json.loads(shape)).copy() for ids in (tokens, targets))
        return Batch(*both, stream=stream.decode())

    def _ended(self, which: str) -> ReaderEndedError:
        self.end()
        code = self._process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ReaderEndedError(
            f"{self} ended ({how}) while reading {which}.",
            hint="If memory ran out, lower data.mode.document_shuffle_buffer; then: fabella resume.",
        )

    def end(self) -> None:
        """Kill the process, unless it has ended, and wait for it."""
        with self._lock:  # both threads may come here
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # Something may be left unsent; nobody is there to take it.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __str__(self) -> str:
        return f"The reader (pid {self.pid}) of {self._name}"
