"""CUDA graphs: one launch for a decode step, in place of some hundred kernel launches.

A graph replays kernels with fixed addresses and shapes, so there is one for each batch size and each length bucket, up
to each power of two. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.generation.decoder.graph_torch import DecodeCache, DecoderGraph, is_kv_cache
from fabella.generation.decoder.step_inputs_torch import DecodeInputs

MIN_LENGTH = 64
"""Length of the smallest bucket, in positions."""
CAPTURE_AFTER_CALLS = 4
"""Uses of a (batch size, length bucket) after which its graph is captured; a capture costs about as much."""
WARMUP_RUNS = 3
"""Runs before a capture, in which libraries choose kernels and allocate workspaces."""

Thunk = Callable[[], Tensor]
CaptureFn = Callable[[Thunk], tuple[Callable[[], None], Tensor]]
"""Captures work: returns a function that replays it, and the tensor that receives its result.

It may run the work, too, even several times.
"""


class CudaGraphCache:
    """CUDA graphs of one batch's caches. The same operations run with a graph and before there is one."""

    def __init__(
        self, graph: DecoderGraph, caches: Sequence[DecodeCache], *, rows: int, capacity: int, capture: CaptureFn,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._graph, self._caches, self._capacity = graph, caches, capacity
        self._capture_fn: CaptureFn | None = capture
        self._states = [cache for cache in caches if cache is not None and not is_kv_cache(cache)]
        self._has_attention = any(cache is not None and is_kv_cache(cache) for cache in caches)
        self._inputs = torch.zeros(2, rows, dtype=torch.int64, device=device)
        """Token ids and positions, read by every graph."""
        self._calls: Counter[tuple[int, int]] = Counter()
        self._captured: dict[tuple[int, int], tuple[Callable[[], None], Tensor]] = {}

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Return the logits after one more token in each of the first N rows; the next call overwrites them."""
        key = len(tokens), self._bucket(max(positions) + 1)
        self._inputs[:, : len(tokens)].copy_(torch.tensor([tokens, positions]))
        self._calls[key] += 1
        if key not in self._captured and self._capture_fn and self._calls[key] >= CAPTURE_AFTER_CALLS:
            try:
                self._captured[key] = self._capture(self._capture_fn, *key)
            except RuntimeError as error:
                warnings.warn(f"CUDA graphs could not be captured, so generation is slower: {error}", stacklevel=2)
                self._capture_fn = None
        if key not in self._captured:
            return self._step(*key)
        replay, logits = self._captured[key]
        replay()
        return logits

    def _bucket(self, length: int) -> int:
        """Return the number of positions that attention reads for sequences of up to ``length``."""
        if length > self._capacity:
            raise IndexError(f"position {length - 1} of {self._capacity}")
        return min(self._capacity, max(MIN_LENGTH, 1 << (length - 1).bit_length())) if self._has_attention else 1

    def _step(self, count: int, length: int) -> Float[Tensor, "N V"]:
        ids, positions = self._inputs[:, :count]
        return self._graph(DecodeInputs(ids, positions, max_length=length), self._caches)

    def _capture(self, capture: CaptureFn, count: int, length: int) -> tuple[Callable[[], None], Tensor]:
        # Repeated runs write the same keys and values, but they advance the other states: restore those.
        saved = [state.clone() for state in self._states]
        try:
            return capture(lambda: self._step(count, length))
        finally:
            for state, before in zip(self._states, saved, strict=True):
                state.copy_(before)


_capture_lock = threading.Lock()
"""PyTorch allows one capture per process at a time; a server has a thread per model."""


class CudaRecorder:
    """Captures graphs on one GPU. All share one memory pool, because no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, work: Thunk) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with _capture_lock, torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(WARMUP_RUNS):
                        work()
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    result = work()
            finally:  # a capture that fails leaves its stream current
                torch.cuda.set_stream(current)
                current.wait_stream(self._stream)
        return graph.replay, result
