"""Pool of worker processes that tokenize documents on all cores, with results in the order of the documents."""

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from fabella.config.data import LossOn
from fabella.data.child_process import ChildExitedError, ChildProcess
from fabella.data.prepare import worker
from fabella.data.prepare.tokenize import TokenizedDocuments, encode, round_trip
from fabella.errors import DataError, TokenizerError
from fabella.tokenizers.chat.encode import DocumentEncoder
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import utf8

TIMEOUT_SECONDS = 60.0
"""Seconds without a result after which a worker has failed; a chunk takes a fraction of a second."""
SLOWEST_BYTES_PER_SECOND = 50_000
"""Speed of the slowest tokenizer on a busy machine; extends the timeout of chunks with one huge document."""


class WorkerEndedError(DataError):
    """A worker process was killed, crashed, or hangs."""


class WorkerPool:
    """``count`` processes that tokenize with a saved tokenizer. A context manager: none outlives the block."""

    def __init__(
        self,
        tokenizer: Path,
        dtype: "np.dtype[Any]",
        count: int,
        *,
        special_tokens_in_text: bool = False,
        loss_on: LossOn = "all",
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._dtype = dtype
        self._timeout = timeout
        self._idle: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
        self._workers: list[ChildProcess] = []
        self._threads = ThreadPoolExecutor(max_workers=count, thread_name_prefix="fabella-worker")
        request = {
            "tokenizer": str(tokenizer.absolute()),
            "dtype": dtype.str,
            "special_tokens_in_text": special_tokens_in_text,
            "loss_on": loss_on,
        }
        try:
            for number in range(1, count + 1):
                child = ChildProcess(
                    worker.__name__,
                    request,
                    name=f"Worker {number}",
                    environment={"TOKENIZERS_PARALLELISM": "false"},
                )
                self._workers.append(child)
                self._idle.put(child)
        except OSError as error:
            self.__exit__()
            problem = f"Cannot start worker {len(self._workers) + 1}: {error.strerror}."
            raise WorkerEndedError(problem, hint="Use fewer: --workers 1.") from error

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of the workers' numbers."""
        return [child.pid for child in self._workers]

    def encode(self, chunks: Iterable[Sequence[str]], first: int = 0) -> Iterator[TokenizedDocuments]:
        """Yield the chunks tokenized, in order; ``first`` is the number of their first document, for errors.

        At most two chunks per worker are in progress, so that memory stays bounded. Raises TokenizerError for a text
        that cannot be encoded, WorkerEndedError if a worker exited or hangs.
        """
        pending: deque[tuple[Future[TokenizedDocuments], _Chunk]] = deque()
        for texts in chunks:
            chunk = _Chunk(first, texts)
            first += len(texts)
            pending.append((self._threads.submit(self._encode, chunk), chunk))
            if len(pending) >= 2 * len(self._workers):
                yield self._result(*pending.popleft())
        while pending:
            yield self._result(*pending.popleft())

    def _encode(self, chunk: "_Chunk") -> TokenizedDocuments:
        child = self._idle.get()
        chunk.worker = child
        try:
            ids, lengths, sizes, changes, *masks = child.request(*chunk.texts)
        except ChildExitedError as error:
            raise WorkerEndedError(
                f"{child} exited ({error.status}) while encoding {chunk}.",
                hint="If memory ran out, use fewer: --workers 1.",
            ) from error
        except TokenizerError as error:
            problem = f"{child}, {chunk}, counted from the first of them: {error.message}"
            raise TokenizerError(problem, hint=error.hint) from error
        finally:
            # A worker that has exited goes back, too: its next chunk fails at once instead of waiting.
            self._idle.put(child)
        documents, sizes, changes = (np.frombuffer(values, np.int64) for values in (lengths, sizes, changes))
        encoded = TokenizedDocuments(np.frombuffer(ids, self._dtype), documents, sizes, changes)
        if not masks:
            return encoded
        mask, learned_bytes = masks
        return replace(
            encoded, loss_mask=np.frombuffer(mask, np.bool_), learned_bytes=np.frombuffer(learned_bytes, np.int64)
        )

    def _result(self, future: "Future[TokenizedDocuments]", chunk: "_Chunk") -> TokenizedDocuments:
        seconds = self._timeout + chunk.bytes / SLOWEST_BYTES_PER_SECOND
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            subject = str(chunk.worker) if chunk.worker else "A worker"
            raise WorkerEndedError(
                f"{subject} has not responded for {seconds:.0f} s while encoding {chunk}.",
                hint="Check that text, or use --workers 1.",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        for child in self._workers:
            child.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in self._workers:
            child.close()


def encode_chunks(
    chunks: Iterator[list[str]],
    tokenizer: Tokenizer,
    directory: Path,
    dtype: "np.dtype[Any]",
    workers: int,
    *,
    first: int,
    special_tokens_in_text: bool = False,
    loss_on: LossOn = "all",
) -> Iterator[TokenizedDocuments]:
    """Yield the encoded chunks in order: the ``first`` ones in this process, the others by ``workers`` processes.

    ``directory``: where ``tokenizer`` is saved.
    """
    documents = 0
    compare = round_trip(tokenizer)
    encoder = DocumentEncoder(tokenizer, special_tokens_in_text=special_tokens_in_text)
    for texts in islice(chunks, None if workers == 1 else first):
        documents += len(texts)
        yield encode(encoder, texts, dtype, compare, loss_on=loss_on)
    next_chunk = next(chunks, None)
    if next_chunk is not None:
        options: dict[str, Any] = {"special_tokens_in_text": special_tokens_in_text, "loss_on": loss_on}
        with WorkerPool(directory, dtype, workers, **options) as pool:
            yield from pool.encode(chain([next_chunk], chunks), first=documents)


class _Chunk:
    """Documents in progress, and the worker that encodes them."""

    def __init__(self, first: int, texts: Sequence[str]) -> None:
        self.first = first
        self.texts = [utf8(text) for text in texts]
        self.bytes = sum(map(len, self.texts))
        self.worker: ChildProcess | None = None

    def __str__(self) -> str:
        return f"documents {self.first:,} to {self.first + len(self.texts) - 1:,}"
