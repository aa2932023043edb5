"""Tests that the recurrence of MinGRU matches a loop in float64."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabella.models.nn import recurrence_torch
from fabella.models.nn.recurrence_torch import MinGRU, recur

# Relative to the largest value. float32 rounds by 6e-8 per step, which adds up to 2e-6 of h after 4,096 steps. If all
# h̃ are nearly equal, the gradient of the gate is their small difference and has a tenth of the precision of h.
SINGLE = 5e-5
EXACT = 1e-12
STEPS = 4096


@pytest.fixture(params=["step by step", "all at once"], scope="module", autouse=True)
def algorithm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test with the algorithm of CPUs and with that of GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence_torch, "use_parallel_scan", lambda device: request.param == "all at once")
        yield


def step_by_step(gate: Tensor, candidate: Tensor, before: Tensor) -> Tensor:
    """Return h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, differentiated by PyTorch; this form of σ has an exact slope."""
    states, last = [], before
    for k, c in zip(gate.unbind(1), candidate.unbind(1), strict=True):
        z, keep = 1 / (1 + torch.exp(-k)), 1 / (1 + torch.exp(k))
        last = keep * last + z * torch.where(c >= 0, c + 0.5, torch.sigmoid(c))
        states.append(last)
    return torch.stack(states, dim=1)


def random_inputs(batch: int, time: int, dim: int, *, gate: float, spread: float, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shape = (batch, time, dim)
    k = gate + spread * torch.randn(shape, generator=random, dtype=torch.float64)
    c = spread * torch.randn(shape, generator=random, dtype=torch.float64)
    return [k, c, torch.randn(batch, dim, generator=random, dtype=torch.float64).abs()]


def with_gradients(recurrence: object, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the hidden states and the gradients of a fixed random sum of them."""
    leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in inputs]
    hidden = recurrence(*leaves)  # type: ignore[operator]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (hidden * weights.to(dtype)).sum().backward()
    return [hidden.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


# Gates nearly closed (memory of ten thousand steps), half open, open; inputs small, usual, huge.
@pytest.mark.parametrize("gate", [-30.0, -9.0, 0.0, 30.0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 60.0])
def test_4096_steps_neither_overflow_nor_lose_precision(gate: float, spread: float) -> None:
    inputs = random_inputs(1, STEPS, 8, gate=gate, spread=spread)
    exact = with_gradients(step_by_step, inputs, torch.float64)
    single = with_gradients(recur, inputs, torch.float32)
    for actual, truth in zip(single, exact, strict=True):
        assert actual.isfinite().all()
        assert (actual.double() - truth).abs().max() <= SINGLE * truth.abs().max()


@settings(max_examples=60)
@given(batch=st.integers(1, 3), time=st.integers(1, 70), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_shape_matches_the_formula(batch: int, time: int, dim: int, seed: int) -> None:
    inputs = random_inputs(batch, time, dim, gate=0.0, spread=2.0, seed=seed)
    exact = with_gradients(step_by_step, inputs, torch.float64)
    for ours, truth in zip(with_gradients(recur, inputs, torch.float64), exact, strict=True):
        torch.testing.assert_close(ours, truth, atol=EXACT, rtol=EXACT)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(1, 29), unique=True, max_size=29).map(lambda c: [0, *sorted(c), 30]))
def test_chunks_with_a_carried_state_equal_the_whole(cuts: list[int]) -> None:
    gate, candidate, last = random_inputs(2, 30, 3, gate=0.0, spread=2.0)
    expected, parts = recur(gate, candidate, last), []
    for start, end in pairwise(cuts):
        parts.append(recur(gate[:, start:end], candidate[:, start:end], last))
        last = parts[-1][:, -1]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=EXACT, rtol=0)


def test_half_precision_is_accumulated_in_float32() -> None:
    gate, candidate, before = (x.bfloat16() for x in random_inputs(2, 600, 4, gate=-6.0, spread=1.0))
    hidden = recur(gate, candidate, before)
    assert hidden.dtype == torch.float32
    exact = step_by_step(gate.double(), candidate.double(), before.double())
    assert (hidden - exact).abs().max() <= SINGLE * exact.abs().max()


def test_layer_returns_output_and_last_state() -> None:
    layer = MinGRU(6, 9)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    output, last = layer(x)
    assert (output.shape, last.shape) == ((2, 5, 6), (2, 9))
    torch.testing.assert_close(layer(x[:, :3])[1], recur(layer.gate(x), layer.candidate(x), torch.zeros(2, 9))[:, 2])
