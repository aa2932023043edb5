"""Batches prefetched on a thread, so that the device does not wait for the disk."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from fabella.data.batches import Batch
from fabella.data.sampler import Sampler
from fabella.data.sequences import TrainingSequences


class PrefetchLoader(Iterator[Batch]):
    """Iterator over prefetched batches. It can be closed at any time, which ends its thread and the iteration."""

    def __init__(
        self, dataset: TrainingSequences, sampler: Sampler, start: int, sizes: Iterator[int], prefetch: int
    ) -> None:
        assert prefetch >= 1, "at least one prefetched batch"
        self._dataset, self._sampler, self._position, self._sizes = dataset, sampler, start, sizes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fabella-loader")
        self._pending: deque[Future[Batch]] = deque()
        try:
            for _ in range(prefetch):
                self._submit()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Batch:
        if not self._pending:
            self.close()
            raise StopIteration
        try:
            batch = self._pending.popleft().result()
            self._submit()
        except BaseException:
            self.close()
            raise
        return batch

    def _submit(self) -> None:
        """Submit the next batch to the thread, if there is one."""
        for size in self._sizes:
            self._pending.append(self._thread.submit(self._make, self._position, self._position + size))
            self._position += size
            return

    def _make(self, start: int, stop: int) -> Batch:
        return self._dataset.batch(self._sampler.sequences(start, stop))

    def close(self) -> None:
        """Drop pending batches, end the thread and wait for it. Safe to call twice."""
        self._pending.clear()
        self._sizes = iter(())
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


PREFETCH_BATCHES = 4
"""Batches prefetched: enough to bridge a slow read, few enough to need little memory."""


def prefetch_loader(
    dataset: TrainingSequences,
    sampler: Sampler,
    start: int,
    sizes: Iterator[int],
    prefetch: int = PREFETCH_BATCHES,
) -> PrefetchLoader:
    """Return batches of ``sizes`` sequences each, from position ``start`` of ``sampler``, ``prefetch`` of them pending.

    ``next`` raises an error of the thread. Close the loader (``with``, ``contextlib.closing``) when done.
    """
    return PrefetchLoader(dataset, sampler, start, sizes, prefetch)
