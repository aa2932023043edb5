"""RMSNorm, SwiGLU, GELU and MinGRU's recurrence by the training kernels, each one pass over memory."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fabella.models.nn.kernels.tensors_torch import address, dtype_number, int64_array


def _count(tensor: Tensor) -> ctypes.c_int64:
    return ctypes.c_int64(tensor.numel())


def fused_rms_norm(
    library: ctypes.CDLL, x: Float[Tensor, "*b D"], weight: Float[Tensor, " D"], eps: float, dtype: torch.dtype
) -> Float[Tensor, "*b D"]:
    """Return x / √(mean(x²) + eps) · weight in ``dtype``, computed in float32; ``x`` and ``weight`` are float32."""
    return _RMSNorm.apply(x, weight, library, eps, dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, library: ctypes.CDLL, eps: float, dtype: torch.dtype) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        dim = x.shape[-1]
        rows = x.numel() // dim
        result, inverse = torch.empty_like(x, dtype=dtype), x.new_empty(rows)
        sizes = ctypes.c_int64(rows), ctypes.c_int64(dim)
        library.fabella_rms_norm(
            dtype_number(dtype),
            address(x),
            address(weight),
            *sizes,
            ctypes.c_float(eps),
            *map(address, (result, inverse)),
        )
        ctx.save_for_backward(x, weight, inverse)
        ctx.library, ctx.sizes, ctx.dtype = library, sizes, dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        gradient, x_gradient = gradients[0].contiguous(), torch.empty_like(x)
        partial = x.new_empty(ctx.library.fabella_rms_norm_parts(ctx.sizes[0]), x.shape[-1])
        tensors = map(address, (x, weight, inverse, gradient))
        outputs = map(address, (x_gradient, partial))
        ctx.library.fabella_rms_norm_backward(dtype_number(ctx.dtype), *tensors, *ctx.sizes, *outputs)
        return x_gradient, partial.sum(0), None, None, None


def fused_swiglu(library: ctypes.CDLL, gate: Float[Tensor, "*b F"], up: Float[Tensor, "*b F"]) -> Float[Tensor, "*b F"]:
    """Return silu(gate) · up."""
    return _SwiGLU.apply(gate, up, library)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, library: ctypes.CDLL) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        result = torch.empty_like(gate)
        library.fabella_swiglu(dtype_number(gate.dtype), address(gate), address(up), _count(gate), address(result))
        ctx.save_for_backward(gate, up)
        ctx.library = library
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        outputs = torch.empty_like(gate), torch.empty_like(up)
        tensors = map(address, (gate, up, gradients[0].contiguous()))
        ctx.library.fabella_swiglu_backward(dtype_number(gate.dtype), *tensors, _count(gate), *map(address, outputs))
        return (*outputs, None)


def fused_gelu(library: ctypes.CDLL, x: Float[Tensor, "*b F"], *, tanh: bool) -> Float[Tensor, "*b F"]:
    """Return GELU(x), with the approximation by tanh or exact."""
    return _GELU.apply(x, library, tanh)


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: ctypes.CDLL, tanh: bool) -> Tensor:
        x = x.contiguous()
        result = torch.empty_like(x)
        library.fabella_gelu(dtype_number(x.dtype), address(x), _count(x), int(tanh), address(result))
        ctx.save_for_backward(x)
        ctx.library, ctx.tanh = library, tanh
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        gradient, result = gradients[0].contiguous(), torch.empty_like(x)
        ctx.library.fabella_gelu_backward(
            dtype_number(x.dtype), address(x), address(gradient), _count(x), int(ctx.tanh), address(result)
        )
        return result, None, None


def fused_recurrence(
    library: ctypes.CDLL,
    gate: Float[Tensor, "B T S"],
    candidate: Float[Tensor, "B T S"],
    initial: Float[Tensor, "B S"],
    document_starts: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T S"]:
    """Return MinGRU's hidden states in float32, computed in time order.

    ``document_starts``: position at which the document of each position starts; there, the state before it is 0.
    """
    return _Recurrence.apply(gate, candidate, initial, document_starts, library)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        candidate: Tensor,
        initial: Tensor,
        document_starts: Tensor | None,
        library: ctypes.CDLL,
    ) -> Tensor:
        gate, candidate, initial = gate.contiguous(), candidate.contiguous(), initial.contiguous()
        starts = None if document_starts is None else document_starts.to(torch.int32).contiguous()
        hidden = torch.empty_like(gate, dtype=torch.float32)
        library.fabella_recurrence(
            dtype_number(gate.dtype),
            *map(address, (gate, candidate, initial, starts)),
            int64_array(gate.shape),
            address(hidden),
        )
        ctx.save_for_backward(gate, candidate, initial, hidden, starts)
        ctx.library = library
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        gate, candidate, initial, hidden, starts = ctx.saved_tensors
        outputs = torch.empty_like(gate), torch.empty_like(candidate), torch.empty_like(initial)
        ctx.library.fabella_recurrence_backward(
            dtype_number(gate.dtype),
            *map(address, (gate, candidate, initial, starts, hidden, gradients[0].contiguous())),
            int64_array(gate.shape),
            *map(address, outputs),
        )
        return (*outputs, None, None)
