"""Weighted sums on the residual stream by the training kernels, alone or with the RMSNorm of the sum."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.models.nn.kernels.tensors_torch import address, dtype_number


def fused_scaled_sum(
    library: ctypes.CDLL, x: Float[Tensor, "*b D"], z: Float[Tensor, "*b D"], factors: Float[Tensor, " 2"]
) -> Float[Tensor, "*b D"]:
    """Return factors[0]·x + factors[1]·z in the dtype of ``x`` and ``z``; ``factors`` is float32."""
    return _ScaledSum.apply(x, z, factors, library)


def fused_sum_norm(
    library: ctypes.CDLL,
    x: Float[Tensor, "*b D"],
    z: Float[Tensor, "*b D"],
    factors: Float[Tensor, " 2"] | None,
    weight: Float[Tensor, " D"],
    norm: tuple[float, torch.dtype],
) -> tuple[Float[Tensor, "*b D"], Float[Tensor, "*b D"]]:
    """Return y = factors[0]·x + factors[1]·z and RMSNorm(y)·weight.

    ``x``, ``factors`` (None: 1 and 1), ``weight`` and y are float32. ``norm``: eps, and the dtype of the second result.
    """
    return _SumNorm.apply(x, z, factors, weight, (library, *norm))


def _sizes(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    dim = x.shape[-1]
    return ctypes.c_int64(x.numel() // dim), ctypes.c_int64(dim)


class _ScaledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, factors: Tensor, library: ctypes.CDLL) -> Tensor:
        x, z, factors = x.contiguous(), z.contiguous(), factors.contiguous()
        result = torch.empty_like(x)
        library.fabella_scaled_sum(dtype_number(x.dtype), *map(address, (x, z, factors)), *_sizes(x), address(result))
        ctx.save_for_backward(x, z, factors)
        ctx.library = library
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, z, factors = ctx.saved_tensors
        gradient, sizes = gradients[0].contiguous(), _sizes(x)
        outputs = (
            torch.empty_like(x),
            torch.empty_like(z),
            factors.new_empty(ctx.library.fabella_sum_parts(sizes[0]), 2),
        )
        inputs = map(address, (x, z, factors, gradient))
        ctx.library.fabella_scaled_sum_backward(dtype_number(x.dtype), *inputs, *sizes, *map(address, outputs))
        return outputs[0], outputs[1], outputs[2].sum(0), None


class _SumNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        factors: Tensor | None,
        weight: Tensor,
        settings: tuple[ctypes.CDLL, float, torch.dtype],
    ) -> tuple[Tensor, Tensor]:
        """``settings``: library, eps, and the dtype of the second result."""
        x, z, weight = x.contiguous(), z.contiguous(), weight.contiguous()
        library, eps, dtype = settings
        sizes, dtypes = _sizes(x), (dtype_number(z.dtype), dtype_number(dtype))
        y, normed, inverse = torch.empty_like(x), torch.empty_like(x, dtype=dtype), x.new_empty(sizes[0].value)
        library.fabella_sum_norm(
            *dtypes,
            *map(address, (x, z, factors, weight)),
            *sizes,
            ctypes.c_float(eps),
            *map(address, (y, normed, inverse)),
        )
        # Only the gradients of the factors need what is added.
        ctx.save_for_backward(*((x, z) if factors is not None else (None, None)), factors, weight, y, inverse)
        ctx.library, ctx.dtypes, ctx.z_dtype = library, dtypes, z.dtype
        return y, normed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, z, factors, weight, y, inverse = ctx.saved_tensors
        y_gradient, normed_gradient = (gradient.contiguous() for gradient in gradients)
        sizes = _sizes(y)
        parts = ctx.library.fabella_sum_parts(sizes[0])
        x_gradient, z_gradient = torch.empty_like(y), torch.empty_like(y, dtype=ctx.z_dtype)
        partial_weight = y.new_empty(parts, y.shape[-1])
        partial_factors = None if factors is None else y.new_empty(parts, 2)
        ctx.library.fabella_sum_norm_backward(
            *ctx.dtypes,
            *map(address, (x, z, factors, weight, y, inverse, y_gradient, normed_gradient)),
            *sizes,
            *map(address, (x_gradient, z_gradient, partial_weight, partial_factors)),
        )
        factors_gradient = None if partial_factors is None else partial_factors.sum(0)
        return x_gradient, z_gradient, factors_gradient, partial_weight.sum(0), None
