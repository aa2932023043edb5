"""Tests that packed matrix products for small batches equal those of torch.nn.functional.linear."""

import pytest
import torch
from torch import Tensor

from fabella.generation.decoder.packed_linear_torch import MIN_PACKED_SIZE, float16_linear, float32_linear, int8_linear

# float32 sums of a thousand products in another order.
TOLERANCE = 1e-3
SMALL, LARGE = (40, 24), (1100, 512)
# Rounding to int8: x has 127 steps up to its maximum, about 3.3 standard deviations (1.5 % noise), weights 254 (0.7 %).
INT8_TOLERANCE = 0.025
# Weights rounded to eleven bits: 2⁻¹² of each product on average.
FLOAT16_TOLERANCE = 0.0005
# Relative to the largest value: float32 sums of 512 products in another order.
ROUNDING = 1e-5


def make_weight(shape: tuple[int, int], *, bias: bool) -> tuple[Tensor, Tensor | None]:
    random = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=random), torch.randn(shape[0], generator=random) if bias else None


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 70])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_product_equals_that_of_linear(rows: int, shape: tuple[int, int], bias: bool) -> None:
    assert (shape[0] * shape[1] >= MIN_PACKED_SIZE) == (shape is LARGE)
    weight, offset = make_weight(shape, bias=bias)
    x = torch.randn(rows, shape[1])
    with torch.inference_mode():
        actual = float32_linear(weight, offset)(x)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, torch.nn.functional.linear(x, weight, offset), atol=TOLERANCE, rtol=0)


needs_int8_kernels = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="int8 kernels need x86"
)


@needs_int8_kernels
@pytest.mark.parametrize("bias", [False, True])
def test_an_int8_product_is_close(bias: bool) -> None:
    weight, offset = make_weight(LARGE, bias=bias)
    x = torch.randn(8, LARGE[1], generator=torch.Generator().manual_seed(4)) * torch.logspace(-3, 3, 8)[:, None]
    expected = x @ weight.T
    actual = int8_linear(weight, offset)(x) - (0 if offset is None else offset)
    assert ((actual - expected).norm(dim=1) / expected.norm(dim=1)).max() < INT8_TOLERANCE


@needs_int8_kernels
def test_an_int8_row_does_not_depend_on_the_batch() -> None:
    weight, _ = make_weight(LARGE, bias=False)
    x = torch.randn(6, LARGE[1]) * torch.logspace(-4, 4, 6)[:, None]
    multiply = int8_linear(weight)
    assert torch.equal(multiply(x), torch.cat([multiply(row[None]) for row in x]))


@needs_int8_kernels
def test_an_int8_product_of_zeros_is_zero() -> None:
    weight, _ = make_weight(LARGE, bias=False)
    assert not int8_linear(weight)(torch.zeros(2, LARGE[1])).any()


@needs_int8_kernels
@pytest.mark.parametrize("bias", [False, True])
def test_a_float16_product_is_closer(bias: bool) -> None:
    weight, offset = make_weight(LARGE, bias=bias)
    x = torch.randn(6, LARGE[1], generator=torch.Generator().manual_seed(4)) * torch.logspace(-4, 4, 6)[:, None]
    multiply = float16_linear(weight, offset)
    actual = multiply(x)
    for row, single_row in zip(actual, x, strict=True):
        torch.testing.assert_close(multiply(single_row[None])[0], row, atol=float(row.abs().max()) * ROUNDING, rtol=0)
    expected = torch.nn.functional.linear(x, weight, offset)
    assert ((actual - expected).norm(dim=1) / expected.norm(dim=1)).max() < FLOAT16_TOLERANCE


@needs_int8_kernels
def test_a_weight_beyond_float16_stays_finite() -> None:
    weight, _ = make_weight(LARGE, bias=False)
    weight[0, 0] = 1e6
    assert float16_linear(weight)(torch.ones(1, LARGE[1])).isfinite().all()
