"""Products laid out for few rows are the products."""

import pytest
import torch
from torch import Tensor

from fabella.generation.decoder.packed_linear_torch import MIN_PACKED_SIZE, float16_linear, float32_linear, int8_linear

# Sums of a thousand products in float32, in another order.
TOLERANCE = 1e-3
SMALL, LARGE = (40, 24), (1100, 512)
# x in 127 steps up to its largest, about 3.3 standard deviations: noise of 1.5 %; weights in 254: 0.7 %.
BYTES_TOLERANCE = 0.025
# Eleven bits of a weight, rounded: 2⁻¹² on average of each product.
HALVES_TOLERANCE = 0.0005
# float32 sums of 512 products in another order, of the largest
ROUNDING = 1e-5


def weight_of(shape: tuple[int, int], *, bias: bool) -> tuple[Tensor, Tensor | None]:
    random = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=random), torch.randn(shape[0], generator=random) if bias else None


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 70])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_product_equals_that_of_linear(rows: int, shape: tuple[int, int], bias: bool) -> None:
    assert (shape[0] * shape[1] >= MIN_PACKED_SIZE) == (shape is LARGE)
    weight, offset = weight_of(shape, bias=bias)
    x = torch.randn(rows, shape[1])
    with torch.inference_mode():
        found = float32_linear(weight, offset)(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, offset), atol=TOLERANCE, rtol=0)


needs_bytes = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="byte kernels are x86's"
)


@needs_bytes
@pytest.mark.parametrize("bias", [False, True])
def test_an_int8_product_is_close(bias: bool) -> None:
    weight, offset = weight_of(LARGE, bias=bias)
    x = torch.randn(8, LARGE[1], generator=torch.Generator().manual_seed(4)) * torch.logspace(-3, 3, 8)[:, None]
    expected = x @ weight.T
    found = int8_linear(weight, offset)(x) - (0 if offset is None else offset)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < BYTES_TOLERANCE


@needs_bytes
def test_an_int8_row_does_not_depend_on_the_batch() -> None:
    weight, _ = weight_of(LARGE, bias=False)
    x = torch.randn(6, LARGE[1]) * torch.logspace(-4, 4, 6)[:, None]
    multiply = int8_linear(weight)
    assert torch.equal(multiply(x), torch.cat([multiply(row[None]) for row in x]))


@needs_bytes
def test_an_int8_product_of_zeros_is_zero() -> None:
    weight, _ = weight_of(LARGE, bias=False)
    assert not int8_linear(weight)(torch.zeros(2, LARGE[1])).any()


@needs_bytes
@pytest.mark.parametrize("bias", [False, True])
def test_a_float16_product_is_closer(bias: bool) -> None:
    weight, offset = weight_of(LARGE, bias=bias)
    x = torch.randn(6, LARGE[1], generator=torch.Generator().manual_seed(4)) * torch.logspace(-4, 4, 6)[:, None]
    multiply = float16_linear(weight, offset)
    found = multiply(x)
    for row, alone in zip(found, x, strict=True):
        torch.testing.assert_close(multiply(alone[None])[0], row, atol=float(row.abs().max()) * ROUNDING, rtol=0)
    expected = torch.nn.functional.linear(x, weight, offset)
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < HALVES_TOLERANCE


@needs_bytes
def test_a_weight_beyond_float16_stays_finite() -> None:
    weight, _ = weight_of(LARGE, bias=False)
    weight[0, 0] = 1e6
    assert float16_linear(weight)(torch.ones(1, LARGE[1])).isfinite().all()
