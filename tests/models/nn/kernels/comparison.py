"""What the tests of the training kernels share: random tensors, and the comparison with float64."""

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}
"""Norm of the error as a share of the norm, or of 1 for a value that vanishes; bf16 has 8 bits."""
DTYPES = list(TOLERANCE)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def assert_same(
    fused: Callable[..., Tensor | tuple[Tensor, ...]],
    exact: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: list[Tensor],
) -> None:
    """Compare results and gradients with those of float64; half-precision inputs or results allow half precision."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    doubles = [x.double().requires_grad_() for x in inputs]
    results, expected = _tuple(fused(*leaves)), _tuple(exact(*doubles))
    gradients = [random(*result.shape, dtype=result.dtype, seed=9 + i) for i, result in enumerate(results)]
    torch.autograd.backward(results, gradients)
    torch.autograd.backward(expected, [gradient.double() for gradient in gradients])
    tolerance = max(TOLERANCE[tensor.dtype] for tensor in (*inputs, *results))
    pairs = [*zip(results, expected, strict=True), *((a.grad, b.grad) for a, b in zip(leaves, doubles, strict=True))]
    for actual, other in pairs:
        assert actual is not None
        assert other is not None
        assert (actual.double() - other).norm() <= tolerance * max(other.norm().item(), 1.0)


def _tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
