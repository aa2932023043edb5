"""Causal attention by the training kernels."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fabella.models.nn.kernels.tensors_torch import address, dense_rows, dtype_number, int64_array, like_rows


def fused_attention(
    library: ctypes.CDLL,
    query: Float[Tensor, "B H T E"],
    key: Float[Tensor, "B K T E"],
    value: Float[Tensor, "B K T E"],
    *,
    scale: float,
    first: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T D"]:
    """Return softmax(scale·QKᵀ) V: position t attends to the positions from ``first`` (int32; None: 0) to t.

    ``first`` rises with the position. Softmax and sums are float32; memory is O(T) for a head.
    """
    return _Attention.apply(query, key, value, first, (library, scale))


def _strides(*tensors: Tensor) -> Any:
    return int64_array([stride for tensor in tensors for stride in tensor.stride()[:3]])


def _sizes(query: Tensor, key: Tensor) -> Any:
    batch, heads, time, head_dim = query.shape
    return int64_array((batch, heads, key.shape[1], time, head_dim))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, first: Tensor | None, settings: tuple[ctypes.CDLL, float]
    ) -> Tensor:
        """``settings``: library and scale."""
        library, scale = settings
        query, key, value = dense_rows(query), dense_rows(key), dense_rows(value)
        batch, heads, time, head_dim = query.shape
        result = query.new_empty(batch, time, heads, head_dim).transpose(1, 2)
        log_sums = query.new_empty(batch, heads, time, dtype=torch.float32)
        first = None if first is None else first.to(torch.int32).contiguous()
        library.fabella_attention_forward(
            dtype_number(query.dtype),
            _sizes(query, key),
            ctypes.c_float(scale),
            *map(address, (first, query, key, value, result)),
            _strides(query, key, value, result),
            address(log_sums),
        )
        ctx.save_for_backward(query, key, value, result, log_sums, first)
        ctx.library, ctx.scale = library, scale
        return result.transpose(1, 2).flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        query, key, value, result, log_sums, first = ctx.saved_tensors
        heads = query.shape[1]
        gradient = dense_rows(gradients[0].to(query.dtype)).unflatten(2, (heads, -1)).transpose(1, 2)
        outputs = tuple(like_rows(tensor) for tensor in (query, key, value))
        ctx.library.fabella_attention_backward(
            dtype_number(query.dtype),
            _sizes(query, key),
            ctypes.c_float(ctx.scale),
            *map(address, (first, query, key, value, result, gradient, *outputs)),
            _strides(query, key, value, result, gradient, *outputs),
            address(log_sums),
        )
        return (*outputs, None, None)
