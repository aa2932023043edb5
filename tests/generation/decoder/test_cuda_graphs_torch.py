"""What was recorded of a step says what the step says, whatever rows have read and wherever they stand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fabella.generation.decoder.backends_torch import TensorBackend
from fabella.generation.decoder.cuda_graphs_torch import CAPTURE_AFTER_CALLS, WARMUP_RUNS, CudaRecorder
from fabella.generation.decoder.lower_torch import lower
from fabella.generation.decoder.packed_linear_torch import float32_linear
from fabella.generation.decoder.weights import PrefillChunk
from fabella.models.registry import family_names
from tests.generation.test_generate_torch import untrained

ROWS, CAPACITY = 3, 90
# Attention over more positions than there are, all but those masked, adds in another order; a GPU also multiplies so.
LOGITS_TOLERANCE, ON_GPU = 2e-5, 1e-4
# Room for one graph of short texts and one of long ones.
STEPS = 40


class Rehearsing:
    """A recorder where there are no graphs: it does the work as often as a real one, and again when it is played."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        for _ in range(WARMUP_RUNS):
            work()
        result = work()

        def play() -> None:
            self.played += 1
            result.copy_(work())

        return play, result


def longer(family: str, device: str) -> Any:
    """A model with positions beyond the first graph's."""
    return untrained(family, context_length=CAPACITY).to(device)


def tell(model: Any, recorder: Any, device: str) -> list[Tensor]:
    """The logits of texts that come, go on side by side, are moved and leave: the same ones each time."""
    rows = TensorBackend(lower(model, float32_linear), ROWS, CAPACITY, torch.device(device), recorder)
    chance, vocab_size = torch.Generator().manual_seed(2), model.config.vocab_size
    found: list[Tensor] = []
    places = [9, 4, 30]

    def some(count: int) -> list[int]:
        return torch.randint(vocab_size, (count,), generator=chance).tolist()

    for row, length in enumerate(places):
        rows.reset(row)
        found.append(rows.prefill([PrefillChunk(row, some(length), 0)]))
    for step in range(STEPS):
        count = 2 if 15 <= step < 25 else ROWS
        if step == 15:  # the first text ends, the last takes its row
            rows.copy_row(2, 0, places[2])
            places[0] = places[2]
        if step == 25:  # another one comes
            rows.reset(2)
            places[2] = 6
            found.append(rows.prefill([PrefillChunk(2, some(6), 0)]))
        found.append(rows.decode(some(count), places[:count]).cpu().clone())
        places[:count] = [place + 1 for place in places[:count]]
    return [one.cpu() for one in found]


@pytest.mark.parametrize("family", family_names())
def test_a_replayed_graph_gives_the_same_logits(family: str) -> None:
    model, recorder = longer(family, "cpu"), Rehearsing()
    for played, done in zip(tell(model, recorder, "cpu"), tell(model, None, "cpu"), strict=True):
        torch.testing.assert_close(played, done, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)
    # Three texts and two, up to 64 positions; and three from some step on, up to all. A hidden state has no length.
    graphs = 2 if family == "mingru" else 3
    assert (recorder.recorded, recorder.played) == (graphs, STEPS - graphs * (CAPTURE_AFTER_CALLS - 1))


@pytest.mark.gpu
@pytest.mark.parametrize("family", family_names())
def test_on_a_gpu_a_replayed_graph_gives_the_same_logits(family: str) -> None:
    model = longer(family, "cuda")
    recorder = CudaRecorder(torch.device("cuda"))
    for played, done in zip(tell(model, recorder, "cuda"), tell(model, None, "cuda"), strict=True):
        torch.testing.assert_close(played, done, atol=ON_GPU, rtol=ON_GPU)


@pytest.mark.gpu
def test_on_a_gpu_a_failed_capture_changes_nothing() -> None:
    def waiting(work: Callable[[], Tensor]) -> Any:
        return CudaRecorder(torch.device("cuda"))(lambda: work() + work().sum().item())

    model, stream = longer("hybrid", "cuda"), torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="CUDA graphs could not be captured"):
        found = tell(model, waiting, "cuda")
    assert torch.cuda.current_stream() == stream
    for one, other in zip(found, tell(model, None, "cuda"), strict=True):
        torch.testing.assert_close(one, other, atol=ON_GPU, rtol=ON_GPU)


@pytest.mark.parametrize("family", ["llama", "mingru"])
def test_generation_works_without_graphs_if_capture_fails(family: str) -> None:
    def broken(work: Callable[[], Tensor]) -> Any:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    model = longer(family, "cpu")
    with pytest.warns(
        UserWarning, match="CUDA graphs could not be captured, so generation is slower: operation"
    ) as said:
        found = tell(model, broken, "cpu")
    assert len(said) == 1
    for one, other in zip(found, tell(model, None, "cpu"), strict=True):
        torch.testing.assert_close(one, other, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)


def test_a_position_beyond_the_capacity_is_an_error() -> None:
    rows = TensorBackend(lower(longer("llama", "cpu"), float32_linear), 1, 8, torch.device("cpu"), Rehearsing())
    with pytest.raises(IndexError, match="position 8 of 8"):
        rows.decode([1], [8])
