"""Tests that a replayed CUDA graph gives the logits of the step, for rows at any positions."""

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
# A graph attends to more positions, masked, in another order of sums; on a GPU products differ as well.
LOGITS_TOLERANCE, GPU_TOLERANCE = 2e-5, 1e-4
# Enough for one graph of short sequences and one of long ones.
STEPS = 40


class EagerRecorder:
    """A recorder without CUDA graphs: it runs the work as often as a real one, and again at each replay."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        for _ in range(WARMUP_RUNS):
            work()
        result = work()

        def replay() -> None:
            self.replayed += 1
            result.copy_(work())

        return replay, result


def long_model(family: str, device: str) -> Any:
    """Return a model with more positions than the first graph has."""
    return untrained(family, context_length=CAPACITY).to(device)


def decode_steps(model: Any, recorder: Any, device: str) -> list[Tensor]:
    """Return the logits of sequences that join, are decoded in one batch, move to another row and leave."""
    backend = TensorBackend(lower(model, float32_linear), ROWS, CAPACITY, torch.device(device), recorder)
    generator, vocab_size = torch.Generator().manual_seed(2), model.config.vocab_size
    logits: list[Tensor] = []
    positions = [9, 4, 30]

    def random_ids(count: int) -> list[int]:
        return torch.randint(vocab_size, (count,), generator=generator).tolist()

    for row, length in enumerate(positions):
        backend.reset(row)
        logits.append(backend.prefill([PrefillChunk(row, random_ids(length), 0)]))
    for step in range(STEPS):
        count = 2 if 15 <= step < 25 else ROWS
        if step == 15:  # the first sequence ends, and the last one moves to its row
            backend.copy_row(2, 0, positions[2])
            positions[0] = positions[2]
        if step == 25:  # another sequence joins
            backend.reset(2)
            positions[2] = 6
            logits.append(backend.prefill([PrefillChunk(2, random_ids(6), 0)]))
        logits.append(backend.decode(random_ids(count), positions[:count]).cpu().clone())
        positions[:count] = [position + 1 for position in positions[:count]]
    return [actual.cpu() for actual in logits]


@pytest.mark.parametrize("family", family_names())
def test_a_replayed_graph_gives_the_same_logits(family: str) -> None:
    model, recorder = long_model(family, "cpu"), EagerRecorder()
    for replayed, expected in zip(decode_steps(model, recorder, "cpu"), decode_steps(model, None, "cpu"), strict=True):
        torch.testing.assert_close(replayed, expected, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)
    # Graphs for three and for two rows up to 64 positions, and for three rows beyond. A recurrent state has no length.
    graphs = 2 if family in {"mingru", "mingru_plain"} else 3
    assert (recorder.recorded, recorder.replayed) == (graphs, STEPS - graphs * (CAPTURE_AFTER_CALLS - 1))


@pytest.mark.gpu
@pytest.mark.parametrize("family", family_names())
def test_on_a_gpu_a_replayed_graph_gives_the_same_logits(family: str) -> None:
    model = long_model(family, "cuda")
    recorder = CudaRecorder(torch.device("cuda"))
    for replayed, expected in zip(
        decode_steps(model, recorder, "cuda"), decode_steps(model, None, "cuda"), strict=True
    ):
        torch.testing.assert_close(replayed, expected, atol=GPU_TOLERANCE, rtol=GPU_TOLERANCE)


@pytest.mark.gpu
def test_on_a_gpu_a_failed_capture_changes_nothing() -> None:
    def synchronizing_recorder(work: Callable[[], Tensor]) -> Any:
        return CudaRecorder(torch.device("cuda"))(lambda: work() + work().sum().item())

    model, stream = long_model("hybrid", "cuda"), torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="CUDA graphs could not be captured"):
        logits = decode_steps(model, synchronizing_recorder, "cuda")
    assert torch.cuda.current_stream() == stream
    for actual, expected in zip(logits, decode_steps(model, None, "cuda"), strict=True):
        torch.testing.assert_close(actual, expected, atol=GPU_TOLERANCE, rtol=GPU_TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "mingru"])
def test_generation_works_without_graphs_if_capture_fails(family: str) -> None:
    def failing_recorder(work: Callable[[], Tensor]) -> Any:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    model = long_model(family, "cpu")
    with pytest.warns(
        UserWarning, match="CUDA graphs could not be captured, so generation is slower: operation"
    ) as caught:
        logits = decode_steps(model, failing_recorder, "cpu")
    assert len(caught) == 1
    for actual, expected in zip(logits, decode_steps(model, None, "cpu"), strict=True):
        torch.testing.assert_close(actual, expected, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)


def test_a_position_beyond_the_capacity_is_an_error() -> None:
    backend = TensorBackend(
        lower(long_model("llama", "cpu"), float32_linear), 1, 8, torch.device("cpu"), EagerRecorder()
    )
    with pytest.raises(IndexError, match="position 8 of 8"):
        backend.decode([1], [8])
