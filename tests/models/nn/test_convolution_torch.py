"""Tests that the short convolution is PyTorch's depthwise one, and that chunks give what the whole sequence gives."""

import pytest
import torch
from torch.nn import functional

from fabella.models.nn.convolution_torch import ShortConvolution


@pytest.fixture(params=[1, 2, 4, 7])
def convolution(request: pytest.FixtureRequest) -> ShortConvolution:
    layer = ShortConvolution(5, request.param)
    layer.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return layer.double()


def test_it_is_the_depthwise_convolution_and_the_input(convolution: ShortConvolution) -> None:
    x = torch.randn(3, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y, _ = convolution(x)
    size = convolution.weight.shape[2]
    expected = functional.conv1d(functional.pad(x.mT, (size - 1, 0)), convolution.weight, groups=5).mT
    torch.testing.assert_close(y, x + expected)


@pytest.mark.parametrize("cuts", [[11], [1] * 11, [1, 2, 8], [7, 4]])
def test_any_split_gives_the_same_outputs(convolution: ShortConvolution, cuts: list[int]) -> None:
    x = torch.randn(3, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    past, parts = None, []
    for part in x.split(cuts, dim=1):
        y, past = convolution(part, past)
        parts.append(y)
    assert past is not None
    assert past.shape == (3, convolution.weight.shape[2] - 1, 5)
    torch.testing.assert_close(torch.cat(parts, dim=1), convolution(x)[0])
