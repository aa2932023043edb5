"""Encoding on all cores: worker processes fed through pipes, their results in the order of what was sent.

Plain subprocesses instead of ``multiprocessing``: they import nothing of the main program (no ``__main__`` guard
is needed), share no memory, and end by themselves when the pipe from their parent closes.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from fabella.data.pipe_messages import receive, send
from fabella.data.prepare import worker
from fabella.data.prepare.tokenize import TokenizedDocuments
from fabella.errors import DataError, TokenizerError
from fabella.tokenizers.vocab_bytes import utf8

# A chunk is encoded in a fraction of a second; a worker that is silent for so long will not speak again.
PATIENCE_SECONDS = 60.0
# What the slowest tokenizer is trusted to encode on a busy machine: for chunks that hold one huge document.
SLOWEST_BYTES_PER_SECOND = 50_000


class WorkerEndedError(DataError):
    """A worker process was killed, crashed, or hangs."""


class Workers:
    """``count`` processes that encode with the tokenizer of a folder. A context manager: none outlives the block."""

    def __init__(
        self, tokenizer: Path, dtype: "np.dtype[Any]", count: int, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._dtype = dtype
        self._patience = patience
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._threads = ThreadPoolExecutor(max_workers=count, thread_name_prefix="fabella-worker")
        try:
            for number in range(count):
                self._processes.append(_Process(number + 1, tokenizer, dtype))
                self._idle.put(self._processes[-1])
        except OSError as error:
            self.__exit__()
            problem = f"Worker {len(self._processes) + 1} could not be started: {error.strerror}."
            raise WorkerEndedError(problem, hint="Use fewer: --workers 1.") from error

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of the workers' numbers."""
        return [process.pid for process in self._processes]

    def encode(self, chunks: Iterable[Sequence[str]], first: int = 0) -> Iterator[TokenizedDocuments]:
        """The chunks encoded, in their order; ``first`` is the number of their first document, for errors.

        At most two chunks a worker are under way, so that memory stays bounded. Raises TokenizerError where a text
        cannot be encoded, WorkerEndedError where a worker died or is silent.
        """
        waiting: deque[tuple[Future[TokenizedDocuments], _Task]] = deque()
        for texts in chunks:
            task = _Task(first, texts)
            first += len(texts)
            waiting.append((self._threads.submit(self._run, task), task))
            if len(waiting) >= 2 * len(self._processes):
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    def _run(self, task: "_Task") -> TokenizedDocuments:
        process = self._idle.get()
        task.process = process
        try:
            return process.encode(task)
        finally:
            # One that has ended goes back as well: whoever takes it next learns that at once instead of waiting.
            self._idle.put(process)

    def _result(self, future: "Future[TokenizedDocuments]", task: "_Task") -> TokenizedDocuments:
        seconds = self._patience + task.bytes / SLOWEST_BYTES_PER_SECOND
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            who = str(task.process) if task.process else "A worker"
            raise WorkerEndedError(
                f"{who} has been silent for {seconds:.0f} s while encoding {task}.",
                hint="Look at that text, or use --workers 1.",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        for process in self._processes:
            process.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.close()


class _Task:
    """A chunk under way: which documents, and which process has them."""

    def __init__(self, first: int, texts: Sequence[str]) -> None:
        self.first = first
        self.texts = [utf8(text) for text in texts]
        self.bytes = sum(map(len, self.texts))
        self.process: _Process | None = None

    def __str__(self) -> str:
        return f"documents {self.first:,} to {self.first + len(self.texts) - 1:,}"


class _Process:
    """One worker and its pipes."""

    def __init__(self, number: int, tokenizer: Path, dtype: "np.dtype[Any]") -> None:
        self.number = number
        self._dtype = dtype
        # -P: a file of the user's folder must not stand in for a module. Its own process group: Ctrl-C is not for it.
        command = [sys.executable, "-P", "-m", worker.__name__, str(tokenizer.absolute()), dtype.str]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
        )
        self.pid = self._process.pid

    def encode(self, task: _Task) -> TokenizedDocuments:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None, "a pipe was asked for"
        assert answers is not None, "a pipe was asked for"
        try:
            send(requests, *task.texts)
            kind, *parts = receive(answers)
        except (OSError, EOFError, ValueError) as error:
            raise self._ended(task) from error
        if kind == worker.FAILED:
            problem, fix = (part.decode() for part in parts)
            raise TokenizerError(f"{self}, {task}, counted from the first of them: {problem}", hint=fix)
        ids, lengths, sizes = parts
        return TokenizedDocuments(
            np.frombuffer(ids, self._dtype), np.frombuffer(lengths, np.int64), np.frombuffer(sizes, np.int64)
        )

    def _ended(self, task: _Task) -> WorkerEndedError:
        self._process.kill()
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return WorkerEndedError(
            f"{self} ended ({how}) while encoding {task}.",
            hint="If memory ran out, use fewer: --workers 1.",
        )

    def end(self) -> None:
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
        return f"Worker {self.number} (pid {self.pid})"
