"""Tests of the peak FLOP/s measured with PyTorch."""

import pytest
import torch

from fabella.engine.measure import peak_flops
from fabella.engine.measure.peak_flops_torch import measure_peak_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_peak_is_plausible(dtype: torch.dtype) -> None:
    assert 1e7 < measure_peak_flops(torch.device("cpu"), dtype, seconds=0.0) < 1e15


def test_matrices_have_the_size_and_the_type_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[tuple[torch.Size, torch.dtype]] = []
    multiply = torch.mm

    def recorded(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        products.append((out.shape, out.dtype))
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", recorded)
    measure_peak_flops("cpu", torch.bfloat16, seconds=0.0)
    small = torch.Size([peak_flops.SMALL_SIZE] * 2)
    assert set(products) == {(small, torch.bfloat16)}
