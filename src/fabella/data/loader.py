"""Batches made ahead of time on a thread, so that the device never waits for the disk."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from fabella.data.batches import Batch
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import SequenceDataset


class PrefetchLoader(Iterator[Batch]):
    """An iterator over batches that can be closed at any time; its thread then ends, and so does the iterator."""

    def __init__(
        self, windows: SequenceDataset, order: PermutationSampler, start: int, sizes: Iterator[int], ahead: int
    ) -> None:
        assert ahead >= 1, "at least one batch ahead"
        self._windows, self._order, self._position, self._sizes = windows, order, start, sizes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fabella-feed")
        self._waiting: deque[Future[Batch]] = deque()
        try:
            for _ in range(ahead):
                self._ask()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Batch:
        if not self._waiting:
            self.close()
            raise StopIteration
        try:
            batch = self._waiting.popleft().result()
            self._ask()
        except BaseException:
            self.close()
            raise
        return batch

    def _ask(self) -> None:
        """Have the thread make the next batch, if there is another."""
        for size in self._sizes:
            self._waiting.append(self._thread.submit(self._make, self._position, self._position + size))
            self._position += size
            return

    def _make(self, start: int, stop: int) -> Batch:
        return self._windows.batch(self._order.sequences(start, stop))

    def close(self) -> None:
        """Drop what is waiting, end the thread and wait for it. Safe to call twice."""
        self._waiting.clear()
        self._sizes = iter(())
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


PREFETCH_BATCHES = 4
"""Batches made ahead: enough to get over a slow read, few enough to cost no memory worth speaking of."""


def prefetch_loader(
    windows: SequenceDataset, order: PermutationSampler, start: int, sizes: Iterator[int], ahead: int = PREFETCH_BATCHES
) -> PrefetchLoader:
    """Batches of ``sizes`` windows each, from sample ``start`` of ``order`` on, at most ``ahead`` of them waiting.

    An error on the thread is raised by ``next``. Close it (``with``, ``contextlib.closing``) when done.
    """
    return PrefetchLoader(windows, order, start, sizes, ahead)
