"""Tests that fused attention equals float64, at any length, with shared keys, masks and threads."""

import ctypes

import pytest
import torch
from torch import Tensor

from fabella.models.nn.attention_torch import attend
from fabella.models.nn.kernels.fused_attention_torch import fused_attention
from fabella.models.nn.kernels.library import use_kernels

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}
"""Norm of the error as a share of the norm, or of 1 for a gradient that vanishes; bf16 has 8 bits."""
SHAPES = [
    (1, 1, 1, 1, 5),
    (2, 4, 4, 9, 6),
    (1, 4, 2, 64, 16),
    (2, 4, 1, 131, 48),
    (1, 3, 3, 33, 100),
    (1, 2, 1, 530, 8),
]
"""Batch, heads, key/value heads, time, head dimension: tails of every block."""


def random_heads(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Return query, key, value and a gradient of the result."""
    batch, heads, kv_heads, time, dim = shape
    random = torch.Generator().manual_seed(1)
    query, key, value, gradient = (
        torch.randn(batch, time, n, dim, generator=random).to(dtype).transpose(1, 2)
        for n in (heads, kv_heads, kv_heads, heads)
    )
    return [query, key, value, gradient.transpose(1, 2).flatten(2)]


def by_definition(query: Tensor, key: Tensor, value: Tensor, scale: float, first: Tensor | None) -> Tensor:
    group, time = query.shape[1] // key.shape[1], query.shape[2]
    visible = torch.ones(time, time, dtype=torch.bool).tril()
    if first is not None:
        visible = visible & (torch.arange(time) >= first[:, None, :, None])
    scores = query @ key.repeat_interleave(group, 1).mT * scale
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2).flatten(2)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (actual.double() - expected).norm() <= tolerance * max(expected.norm().item(), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_equal_those_in_float64(
    library: ctypes.CDLL, shape: tuple[int, int, int, int, int], dtype: torch.dtype, masked: bool
) -> None:
    *inputs, gradient = random_heads(shape, dtype)
    first = (torch.arange(shape[3], dtype=torch.int32) // 13 * 13).expand(shape[0], -1) if masked else None
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    expected = by_definition(*exact, 0.3, first)
    expected.backward(gradient.double())
    fused = [tensor.requires_grad_() for tensor in inputs]
    result = fused_attention(library, *fused, scale=0.3, first=first)
    result.backward(gradient)
    assert_near(result, expected, TOLERANCE[dtype])
    for actual, other in zip(fused, exact, strict=True):
        assert actual.grad is not None
        assert other.grad is not None
        assert_near(actual.grad, other.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            *inputs, gradient = random_heads((2, 4, 2, 70, 24), dtype)
            inputs = [tensor.requires_grad_() for tensor in inputs]
            result = fused_attention(library, *inputs, scale=0.2)
            result.backward(gradient)
            results.append([result, *(tensor.grad for tensor in inputs)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_position_attends_to_its_own_document_with_and_without_kernels(library: ctypes.CDLL) -> None:
    query, key, value, _ = random_heads((2, 4, 2, 40, 8), torch.float32)
    starts = torch.tensor([[0] * 7 + [7] * 20 + [27] * 13, [0] * 39 + [39]], dtype=torch.int32)
    without = attend(query, key, value, None, starts)
    with use_kernels(library):
        fused = attend(query.requires_grad_(), key, value, None, starts)
    torch.testing.assert_close(fused, without, atol=1e-6, rtol=1e-5)
    alone = attend(query[:1, :, 7:27], key[:1, :, 7:27], value[:1, :, 7:27], None)
    torch.testing.assert_close(without[:1, 7:27], alone, atol=1e-6, rtol=1e-5)


def test_a_value_that_is_not_finite_reaches_the_result_and_the_gradients(library: ctypes.CDLL) -> None:
    *inputs, gradient = random_heads((1, 1, 1, 40, 8), torch.float32)
    inputs[0][0, 0, 3, 2] = torch.nan
    inputs = [tensor.requires_grad_() for tensor in inputs]
    result = fused_attention(library, *inputs, scale=0.3)
    result.backward(gradient)
    assert result.isnan().any()
    assert all(tensor.grad is not None and tensor.grad.isnan().any() for tensor in inputs)
