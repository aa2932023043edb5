"""Tests that fused rotary embedding, head norm and head gate equal the operations, with their gradients."""

import ctypes

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fabella.models.modern_torch import gate_heads
from fabella.models.nn.attention_torch import Rotate
from fabella.models.nn.kernels.fused_heads_torch import fused_head_gate, fused_rotary
from fabella.models.nn.kernels.library import use_kernels
from fabella.models.nn.rotary_torch import apply_rotary, apply_rotary_interleaved, apply_rotary_partial, rotary_table
from tests.models.nn.kernels.comparison import DTYPES, assert_same, random


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rotate", "dims"), [(apply_rotary, 10), (apply_rotary_partial, 4), (apply_rotary_interleaved, 6)]
)
def test_fused_rotary_embedding_equals_the_operations(
    library: ctypes.CDLL, dtype: torch.dtype, rotate: Rotate, dims: int
) -> None:
    x = random(2, 11, 3, 10, dtype=dtype).transpose(1, 2)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    table = rotary_table(dims, 10_000.0, 11, torch.device("cpu"))
    results = []
    for kernels in (None, library):
        leaf = x.detach().clone().requires_grad_()
        with use_kernels(kernels):
            rotated = rotate(leaf, table)
        rotated.backward(gradient)
        results.append((rotated, leaf.grad))
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 1e-2}
    for with_operations, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, with_operations, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dims", "interleaved"), [(10, False), (4, False), (6, True)])
def test_fused_norm_and_rotary_embedding(
    library: ctypes.CDLL, dtype: torch.dtype, dims: int, interleaved: bool
) -> None:
    table = rotary_table(dims, 10_000.0, 11, torch.device("cpu"))
    rotate = apply_rotary_interleaved if interleaved else apply_rotary_partial

    def exact(x: Tensor) -> Tensor:
        return rotate(functional.rms_norm(x.transpose(1, 2), (10,), None, 1e-5), table)

    def fused(x: Tensor) -> Tensor:
        return fused_rotary(library, x.transpose(1, 2), *table, interleaved=interleaved, norm_eps=1e-5)

    assert_same(fused, exact, [random(2, 11, 3, 10, dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 5), (2, 80)])
def test_fused_head_gate(library: ctypes.CDLL, dtype: torch.dtype, heads: int, head_dim: int) -> None:
    x, gate = random(2, 9, heads * head_dim, dtype=dtype), random(2, 9, heads, dtype=dtype, seed=2)
    assert_same(lambda *inputs: fused_head_gate(library, *inputs), gate_heads, [x, gate])


def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL) -> None:
    table, threads, results = rotary_table(8, 10_000.0, 50, torch.device("cpu")), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            x, gate = random(3, 50, 16).requires_grad_(), random(3, 50, 2, seed=2).requires_grad_()
            gated = fused_head_gate(library, x, gate).unflatten(2, (2, 8)).transpose(1, 2)
            rotated = fused_rotary(library, gated, *table, interleaved=False, norm_eps=1e-6)
            rotated.square().sum().backward()
            results.append((rotated, x.grad, gate.grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
