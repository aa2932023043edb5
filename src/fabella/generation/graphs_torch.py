"""CUDA graphs: one more token of each text by one call of the driver, in place of some hundred.

A graph is what a step has launched, with the same addresses and shapes: there is one for each number of texts, and for
all lengths up to each power of two. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.models.nn_decoding_torch import Decoder, Memory
from fabella.models.nn_reading_torch import Each

SHORTEST = 64
"""Positions that the first graph looks back at"""
AFTER = 4
"""Times that a number of texts and a length must be asked for until it is worth a graph"""
REHEARSALS = 3
"""In which libraries choose what they compute with, and allocate what they need for it"""

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Of some work: what does it again, and where its result lies then. It may do the work, too, even several times."""


class Graphs:
    """The graphs of one memory."""

    def __init__(
        self, decoder: Decoder, memory: Sequence[Memory], *, rows: int, capacity: int, recorder: Recorder,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._decoder, self._memory, self._capacity = decoder, memory, capacity
        self._recorder: Recorder | None = recorder
        self._inputs = torch.zeros(2, rows, dtype=torch.int64, device=device)
        """Ids and positions, where every graph looks for them"""
        self._asked: Counter[tuple[int, int]] = Counter()
        self._known: dict[tuple[int, int], tuple[Callable[[], None], Tensor]] = {}

    def go_on(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"] | None:
        """Logits after one more token of each of the first rows, overwritten by the next such call; None where there is
        no graph yet."""
        longest = max(positions) + 1
        if longest > self._capacity:
            raise IndexError(f"position {longest - 1} of {self._capacity}")
        length = min(self._capacity, max(SHORTEST, 1 << (longest - 1).bit_length()))
        key = len(tokens), length
        self._asked[key] += 1
        if self._recorder is None or self._asked[key] < AFTER:
            return None
        self._inputs[:, : len(tokens)].copy_(torch.tensor([tokens, positions]))
        if key not in self._known:
            try:
                self._known[key] = self._record(self._recorder, *key)
            except RuntimeError as error:
                warnings.warn(f"CUDA graphs could not be recorded, so telling is slower: {error}", stacklevel=2)
                self._recorder = None
                return None
        play, logits = self._known[key]
        play()
        return logits

    def _record(self, recorder: Recorder, count: int, length: int) -> tuple[Callable[[], None], Tensor]:
        ids, places = self._inputs[:, :count]

        def step() -> Tensor:
            return self._decoder.read(Each(ids, places, longest=length), self._memory)

        # Keys and values that are written twice are the same; a hidden state would have gone on.
        hidden = [(one, one.clone()) for one in self._memory if one is not None and one.dim() == 2]
        try:
            return recorder(step)
        finally:
            for one, before in hidden:
                one.copy_(before)


class CudaRecorder:
    """Records on the current GPU; all graphs use the same memory, as no two of them are played at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(REHEARSALS):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        return graph.replay, result
