"""Tests that fused sums and their norms equal the operations in float64, with their gradients."""

import ctypes

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fabella.models.nn.kernels.fused_residual_torch import fused_scaled_sum, fused_sum_norm
from fabella.models.nn.kernels.library import use_kernels
from fabella.models.nn.layers_torch import RMSNorm, scaled_sum, sum_and_norm
from tests.models.nn.kernels.comparison import DTYPES, assert_same, random

SHAPES = [(1, 1), (3, 5), (130, 48), (2, 65, 33)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_sum(library: ctypes.CDLL, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_same(
        lambda x, z, factors: fused_scaled_sum(library, x, z, factors),
        lambda x, z, factors: factors[0] * x + factors[1] * z,
        [random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=2), random(2, seed=3)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("z_dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_and_norm(library: ctypes.CDLL, dtype: torch.dtype, z_dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    def exact(x: Tensor, z: Tensor, weight: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = x + z if factors is None else factors[0] * x + factors[1] * z
        return y, functional.rms_norm(y, (shape[-1],), weight, 1e-5)

    def fused(x: Tensor, z: Tensor, weight: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return fused_sum_norm(library, x, z, factors, weight, (1e-5, dtype))

    inputs = [random(*shape), random(*shape, dtype=z_dtype, seed=2), random(shape[-1], seed=3)]
    assert_same(fused, exact, inputs)
    assert_same(fused, exact, [*inputs, random(2, seed=4)])


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("with_factors", [False, True])
def test_a_layer_takes_the_kernel_and_gives_the_same(library: ctypes.CDLL, mixed: bool, with_factors: bool) -> None:
    norm = RMSNorm(24, 1e-5)
    x, factors = random(3, 7, 24), random(2, seed=3) if with_factors else None
    z = random(3, 7, 24, dtype=torch.bfloat16 if mixed and not with_factors else torch.float32, seed=2)
    results = []
    for kernels in (None, library):
        with use_kernels(kernels), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            results.append(sum_and_norm(x, z, norm, factors))
    (_, plain), (y, normed) = results
    assert y.dtype == torch.float32
    assert normed.dtype == (torch.bfloat16 if mixed else torch.float32)
    torch.testing.assert_close(results[0][0], y, atol=2e-2 if mixed else 1e-6, rtol=1e-2 if mixed else 1e-6)
    torch.testing.assert_close(plain, normed.float(), atol=4e-2 if mixed else 1e-6, rtol=1e-2 if mixed else 1e-6)


def test_hooks_of_a_norm_run_with_kernels(library: ctypes.CDLL) -> None:
    norm, seen = RMSNorm(8), []
    with use_kernels(library):
        sum_and_norm(random(2, 8), random(2, 8), norm)
        handle = norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
        sum_and_norm(random(2, 8), random(2, 8), norm)
        handle.remove()
        sum_and_norm(random(2, 8), random(2, 8), norm)
    assert seen == [(2, 8)]


def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            inputs = [random(300, 40).requires_grad_(), random(300, 40, seed=2).requires_grad_()]
            parameters = [random(2, seed=3).requires_grad_(), random(40, seed=4).requires_grad_()]
            y, normed = fused_sum_norm(library, *inputs, *parameters, (1e-6, torch.float32))
            mixed = fused_scaled_sum(library, y, normed, parameters[0])
            mixed.square().sum().backward()
            results.append((mixed, *(tensor.grad for tensor in (*inputs, *parameters))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_input_that_is_not_finite_gives_a_result_that_is_not_finite(library: ctypes.CDLL) -> None:
    x, z = random(4, 20), random(4, 20, seed=2)
    z[1, 3] = torch.nan
    y, normed = fused_sum_norm(library, x, z, None, torch.ones(20), (1e-6, torch.bfloat16))
    assert y.isnan().sum() == 1
    assert normed[1].isnan().all()
    assert normed.isnan().sum() == 20
    with use_kernels(library):
        assert scaled_sum(x, z, torch.ones(2)).isnan().sum() == 1
