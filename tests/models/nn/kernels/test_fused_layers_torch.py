"""Tests that fused RMSNorm, SwiGLU, GELU and the recurrence equal the operations in float64, with their gradients."""

import ctypes

import pytest
import torch
from torch.nn import functional

from fabella.models.nn.kernels.fused_layers_torch import fused_gelu, fused_recurrence, fused_rms_norm, fused_swiglu
from fabella.models.nn.recurrence_torch import recur
from tests.models.nn.kernels.comparison import DTYPES, assert_same, random


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (130, 48), (2, 65, 33)])
def test_rms_norm(library: ctypes.CDLL, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_same(
        lambda x, weight: fused_rms_norm(library, x, weight, 1e-5, dtype),
        lambda x, weight: functional.rms_norm(x, (shape[-1],), weight, 1e-5),
        [random(*shape), random(shape[-1], seed=2)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (3, 1500)])
def test_swiglu(library: ctypes.CDLL, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_same(
        lambda gate, up: fused_swiglu(library, gate, up),
        lambda gate, up: functional.silu(gate) * up,
        [random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=2)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tanh", [False, True])
def test_gelu(library: ctypes.CDLL, dtype: torch.dtype, tanh: bool) -> None:
    assert_same(
        lambda x: fused_gelu(library, x, tanh=tanh),
        lambda x: functional.gelu(x, approximate="tanh" if tanh else "none"),
        [random(7, 601, dtype=dtype)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "time", "size"), [(1, 1, 1), (2, 9, 5), (2, 40, 130)])
def test_recurrence(library: ctypes.CDLL, dtype: torch.dtype, batch: int, time: int, size: int) -> None:
    assert_same(
        lambda gate, candidate, initial: fused_recurrence(library, gate, candidate, initial),
        recur,
        [
            random(batch, time, size, dtype=dtype),
            random(batch, time, size, dtype=dtype, seed=2),
            random(batch, size, dtype=dtype, seed=3),
        ],
    )


def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            x, weight = random(300, 40).requires_grad_(), random(40, seed=2).requires_grad_()
            y = fused_rms_norm(library, x, weight, 1e-6, torch.float32)
            z = fused_recurrence(library, y.view(3, 100, 40), fused_gelu(library, y, tanh=True).view(3, 100, 40), y[:3])
            z.square().sum().backward()
            results.append((z, x.grad, weight.grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_input_that_is_not_finite_gives_a_result_that_is_not_finite(library: ctypes.CDLL) -> None:
    x = random(4, 20)
    x[1, 3] = torch.nan
    for result in (fused_gelu(library, x, tanh=True), fused_gelu(library, x, tanh=False), fused_swiglu(library, x, x)):
        assert result[1, 3].isnan()
        assert result.isnan().sum() == 1
    assert fused_rms_norm(library, x, torch.ones(20), 1e-6, torch.bfloat16)[1].isnan().all()
