"""RMSNorm, rotary embedding and output gate of attention heads by the training kernels."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.models.nn.kernels.tensors_torch import address, dense_rows, dtype_number, int64_array, like_rows


def fused_rotary(
    library: ctypes.CDLL,
    x: Float[Tensor, "B H T E"],
    cos: Float[Tensor, "T P"],
    sin: Float[Tensor, "T P"],
    *,
    interleaved: bool,
    norm_eps: float | None = None,
) -> Float[Tensor, "B H T E"]:
    """Rotate the first 2·P dimensions: i with i + P, or neighbors if ``interleaved``; in the dtype of ``x``.

    With ``norm_eps``, each head is divided by √(mean(x²) + norm_eps) first.
    """
    if norm_eps is None:
        return _Rotary.apply(x, cos.contiguous(), sin.contiguous(), library, interleaved)
    return _NormedRotary.apply(x, cos.contiguous(), sin.contiguous(), (library, interleaved, norm_eps))


def fused_head_gate(
    library: ctypes.CDLL, x: Float[Tensor, "B T D"], gate: Float[Tensor, "B T H"]
) -> Float[Tensor, "B T D"]:
    """Return each of the H heads of ``x`` times 2·σ(gate)."""
    return _HeadGate.apply(x, gate, library)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, library: ctypes.CDLL, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.library, ctx.interleaved = library, interleaved
        return _rotate(library, x, (cos, sin), interleaved=interleaved, sign=1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        angles = ctx.saved_tensors
        gradient = _rotate(ctx.library, gradients[0], angles, interleaved=ctx.interleaved, sign=-1.0)
        return gradient, None, None, None, None


class _NormedRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, settings: tuple[ctypes.CDLL, bool, float]) -> Tensor:
        """``settings``: library, whether pairs are interleaved, eps of the norm."""
        library, interleaved, eps = settings
        x = dense_rows(x)
        batch, heads, time, _ = x.shape
        inverse = x.new_empty(batch, time, heads, dtype=torch.float32)
        ctx.save_for_backward(x, cos, sin, inverse)
        ctx.library, ctx.interleaved = library, interleaved
        return _rotate(library, x, (cos, sin), interleaved=interleaved, sign=1.0, norm=(eps, inverse))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, cos, sin, inverse = ctx.saved_tensors
        gradient, x_gradient = dense_rows(gradients[0]), like_rows(x)
        ctx.library.fabella_norm_rotate_backward(
            dtype_number(x.dtype),
            address(x),
            address(gradient),
            int64_array((*x.stride()[:3], *gradient.stride()[:3])),
            int64_array((*x.shape, cos.shape[1])),
            int(ctx.interleaved),
            *map(address, (cos, sin, inverse, x_gradient)),
        )
        return x_gradient, None, None, None


def _rotate(
    library: Any,
    x: Tensor,
    angles: tuple[Tensor, Tensor],
    *,
    interleaved: bool,
    sign: float,
    norm: tuple[float, Tensor | None] = (0.0, None),
) -> Tensor:
    """``angles``: cos and sin. ``norm``: eps, and where the factor of each head is stored; None: without a norm."""
    x = dense_rows(x)
    result = like_rows(x)
    library.fabella_norm_rotate(
        dtype_number(x.dtype),
        address(x),
        int64_array(x.stride()[:3]),
        int64_array((*x.shape, angles[0].shape[1])),
        int(interleaved),
        *map(address, angles),
        ctypes.c_float(sign),
        ctypes.c_float(norm[0]),
        address(norm[1]),
        address(result),
    )
    return result


class _HeadGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, library: ctypes.CDLL) -> Tensor:
        x, gate = x.contiguous(), gate.contiguous()
        result = torch.empty_like(x)
        sizes = ctypes.c_int64(gate.numel()), ctypes.c_int64(x.shape[-1] // gate.shape[-1])
        library.fabella_gate_heads(dtype_number(x.dtype), address(x), address(gate), *sizes, address(result))
        ctx.save_for_backward(x, gate)
        ctx.library, ctx.sizes = library, sizes
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, gate = ctx.saved_tensors
        outputs = torch.empty_like(x), torch.empty_like(gate)
        inputs = map(address, (x, gate, gradients[0].contiguous()))
        ctx.library.fabella_gate_heads_backward(dtype_number(x.dtype), *inputs, *ctx.sizes, *map(address, outputs))
        return (*outputs, None)
