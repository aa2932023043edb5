"""Batches of a stream, read ahead of training by a process of its own.

The process takes no time of the training's interpreter, and can be killed even while it waits for a network.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from fabella.config.data import DataConfig, Streaming
from fabella.data.batches import Batch
from fabella.data.child_process import ChildExitedError, ChildProcess
from fabella.data.streaming import reader_process
from fabella.errors import DataError
from fabella.text.source import describe


class ReaderEndedError(DataError):
    """The process that reads a stream was killed, crashed, or hangs."""


class StreamingLoader(Iterator[Batch]):
    """Iterator over prefetched batches. It can be closed at any time, which ends its process and its thread."""

    def __init__(self, data: DataConfig, tokenizer: Path, seed: int, start: str, sizes: Iterator[int]) -> None:
        assert isinstance(data.mode, Streaming), "data.mode is streaming"
        self._timeout = data.mode.timeout_seconds
        self._sizes, self._sequences = sizes, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fabella-stream")
        self._pending: deque[tuple[Future[Batch], str]] = deque()
        self._reader: ChildProcess | None = None
        try:
            self._reader = _start_reader(data, tokenizer, seed, start)
            for _ in range(data.mode.prefetch_batches):
                self._request(self._reader)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the reader; 0 after ``close``."""
        return self._reader.pid if self._reader else 0

    def __next__(self) -> Batch:
        if not self._pending or self._reader is None:
            self.close()
            raise StopIteration
        future, sequences = self._pending.popleft()
        try:
            batch = future.result(timeout=self._timeout)
            self._request(self._reader)
        except TimeoutError:
            reader = str(self._reader)
            self.close()
            raise ReaderEndedError(
                f"{reader} has not responded for {self._timeout:g} s while reading {sequences}.",
                hint="Check the source or the network, or raise data.mode.timeout_seconds; then: fabella resume RUN.",
            ) from None
        except BaseException:
            self.close()
            raise
        return batch

    def _request(self, reader: ChildProcess) -> None:
        """Request the next batch, if there is one."""
        for size in self._sizes:
            sequences = f"sequences {self._sequences + 1:,} to {self._sequences + size:,} since its start"
            self._pending.append((self._thread.submit(_read_batch, reader, size, sequences), sequences))
            self._sequences += size
            return

    def close(self) -> None:
        """End the process and the thread, and wait for both. Safe to call twice."""
        self._pending.clear()
        self._sizes = iter(())
        if self._reader is not None:
            self._reader.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def streaming_loader(data: DataConfig, tokenizer: Path, seed: int, start: str, sizes: Iterator[int]) -> StreamingLoader:
    """Return batches of ``sizes`` sequences each, from the state ``start`` on (``Batch.stream``; empty: beginning).

    ``tokenizer`` is the directory of a saved one; at most ``data.mode.prefetch_batches`` batches are pending. ``next``
    raises the errors of reading (TextError, TokenizerError), and ReaderEndedError if the process exited or hangs.
    """
    return StreamingLoader(data, tokenizer, seed, start, sizes)


def _start_reader(data: DataConfig, tokenizer: Path, seed: int, state: str) -> ChildProcess:
    request = {
        "data": data.model_dump(mode="json"),
        "tokenizer": str(tokenizer.absolute()),
        "seed": seed,
        "state": state,
    }
    name = f"The reader of {describe(data.source)}"
    try:
        return ChildProcess(reader_process.__name__, request, name=name)
    except OSError as error:
        raise ReaderEndedError(f"Cannot start {name[0].lower()}{name[1:]}: {error.strerror}.") from error


def _read_batch(reader: ChildProcess, size: int, sequences: str) -> Batch:
    try:
        shape, *arrays, stream = reader.request(str(size).encode())
    except ChildExitedError as error:
        raise ReaderEndedError(
            f"{reader} exited ({error.status}) while reading {sequences}.",
            hint="If memory ran out, lower data.mode.document_shuffle_buffer; then: fabella resume RUN.",
        ) from error
    tokens, targets, starts = (
        np.frombuffer(ids, np.int32).reshape(json.loads(shape)).copy() if ids else None for ids in arrays
    )
    assert tokens is not None, "a batch has tokens"
    assert targets is not None, "a batch has targets"
    return Batch(tokens, targets, starts, stream.decode())
