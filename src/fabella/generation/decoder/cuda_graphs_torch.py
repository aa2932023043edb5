"""CUDA graphs: one more token of each text by one call of the driver, in place of some hundred.

A graph is what a step has launched, with the same addresses and shapes: there is one for each number of texts, and for
all lengths up to each power of two. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.models.nn.graph_torch import DecodeCache, DecoderGraph
from fabella.models.nn.step_inputs_torch import DecodeInputs

SHORTEST = 64
"""Positions that the first graph looks back at"""
CAPTURE_AFTER_CALLS = 4
"""Times that a number of texts and a length must be asked for until they get a graph: recording takes as many steps"""
WARMUP_RUNS = 3
"""In which libraries choose what they compute with, and allocate what they need for it"""

Thunk = Callable[[], Tensor]
CaptureFn = Callable[[Thunk], tuple[Callable[[], None], Tensor]]
"""Of some work: what does it again, and where its result lies then. It may do the work, too, even several times."""


class CudaGraphCache:
    """The graphs of one memory. With a graph or without one yet, the same is computed."""

    def __init__(
        self, decoder: DecoderGraph, memory: Sequence[DecodeCache], *, rows: int, capacity: int, recorder: CaptureFn,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._decoder, self._memory, self._capacity = decoder, memory, capacity
        self._recorder: CaptureFn | None = recorder
        self._hidden = [one for one in memory if one is not None and one.dim() == 2]
        self._looks_back = any(one is not None and one.dim() > 2 for one in memory)
        self._inputs = torch.zeros(2, rows, dtype=torch.int64, device=device)
        """Ids and positions, where every graph looks for them"""
        self._asked: Counter[tuple[int, int]] = Counter()
        self._known: dict[tuple[int, int], tuple[Callable[[], None], Tensor]] = {}

    def go_on(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Logits after one more token of each of the first rows; they are overwritten by the next call."""
        key = len(tokens), self._length(max(positions) + 1)
        self._inputs[:, : len(tokens)].copy_(torch.tensor([tokens, positions]))
        self._asked[key] += 1
        if key not in self._known and self._recorder and self._asked[key] >= CAPTURE_AFTER_CALLS:
            try:
                self._known[key] = self._record(self._recorder, *key)
            except RuntimeError as error:
                warnings.warn(f"CUDA graphs could not be recorded, so telling is slower: {error}", stacklevel=2)
                self._recorder = None
        if key not in self._known:
            return self._step(*key)
        play, logits = self._known[key]
        play()
        return logits

    def _length(self, longest: int) -> int:
        """Positions to look back at, for texts of up to ``longest``."""
        if longest > self._capacity:
            raise IndexError(f"position {longest - 1} of {self._capacity}")
        return min(self._capacity, max(SHORTEST, 1 << (longest - 1).bit_length())) if self._looks_back else 1

    def _step(self, count: int, length: int) -> Float[Tensor, "N V"]:
        ids, places = self._inputs[:, :count]
        return self._decoder.read(DecodeInputs(ids, places, max_length=length), self._memory)

    def _record(self, recorder: CaptureFn, count: int, length: int) -> tuple[Callable[[], None], Tensor]:
        # Keys and values that are written twice are the same; a hidden state would have gone on.
        before = [one.clone() for one in self._hidden]
        try:
            return recorder(lambda: self._step(count, length))
        finally:
            for one, kept in zip(self._hidden, before, strict=True):
                one.copy_(kept)


_one_at_a_time = threading.Lock()
"""Of a process, as PyTorch asks for: a server has a thread for each model"""


class CudaRecorder:
    """Records on one GPU; all graphs use the same memory, as no two of them are played at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool, self._beside = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, work: Thunk) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with _one_at_a_time, torch.cuda.device(self._device):
            now = torch.cuda.current_stream()
            self._beside.wait_stream(now)
            try:
                with torch.cuda.stream(self._beside):
                    for _ in range(WARMUP_RUNS):
                        work()
                with torch.cuda.graph(graph, self._pool, self._beside, capture_error_mode="thread_local"):
                    result = work()
            finally:  # a graph that cannot be ended leaves us on its stream
                torch.cuda.set_stream(now)
                now.wait_stream(self._beside)
        return graph.replay, result
