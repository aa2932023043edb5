"""Output head and cross-entropy by the training kernels: the gradient of a chunk of logits replaces the logits."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fabella.models.nn.kernels.tensors_torch import address, dtype_number

LOGITS = 2**20
"""Logits per chunk, if that is more rows than MIN_ROWS: as many as stay in a CPU's cache."""
MIN_ROWS = {torch.float32: 320, torch.bfloat16: 1024}
"""Rows per chunk, at least: enough for efficient products; 64 and 103 MB for a vocabulary of 50,257."""
ROW_MULTIPLE = 64
"""The bf16 copy of the head has a multiple of so many rows: products are a tenth faster."""


def fused_linear_cross_entropy(
    library: ctypes.CDLL,
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropy of ``hidden @ weight.T`` in nats; products are computed in ``dtype``.

    A negative target has no loss. Sums, and the gradient of the weight, are float32.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, library, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are computed in forward, not yet divided, so that a loss scale applies to them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, library: ctypes.CDLL, dtype: torch.dtype
    ) -> Tensor:
        has_loss = targets >= 0
        kept = None if bool(has_loss.all()) else has_loss.nonzero().squeeze(1)
        rows = (hidden if kept is None else hidden[kept]).to(dtype).contiguous()
        row_targets = (targets if kept is None else targets[kept]).contiguous()
        total, rows_gradient, weight_gradient = _loss_and_gradients(library, rows, weight, row_targets)
        if kept is None:
            hidden_gradient = rows_gradient
        else:
            hidden_gradient = torch.zeros_like(hidden, dtype=dtype)
            hidden_gradient[kept] = rows_gradient
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return (hidden_gradient * gradients[0]).to(ctx.dtype), weight_gradient * gradients[0], None, None, None


def _loss_and_gradients(
    library: Any, rows: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, " N"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the losses and the gradients of ``rows`` and ``weight``."""
    count, vocab_size = len(rows), len(weight)
    head = _padded(weight, rows.dtype)
    size = max(MIN_ROWS[rows.dtype], LOGITS // vocab_size)
    # A stride that is a power of two slows the products down by a tenth, because rows collide in the cache.
    buffer = rows.new_empty(min(size, count), (len(head) // 32 + 1) * 32)[:, : len(head)]
    losses = rows.new_empty(count, dtype=torch.float32)
    rows_gradient = torch.empty_like(rows)
    weight_gradient = torch.zeros_like(head, dtype=torch.float32)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        logits = torch.mm(rows[part], head.T, out=buffer[: part.stop - start])
        library.fabella_losses(
            dtype_number(rows.dtype),
            address(logits),
            ctypes.c_int64(logits.stride(0)),
            ctypes.c_int64(len(logits)),
            ctypes.c_int64(vocab_size),
            address(targets[part]),
            address(losses[part]),
        )
        logits[:, vocab_size:] = 0
        torch.mm(logits, head, out=rows_gradient[part])
        if rows.dtype == torch.float32:
            weight_gradient.addmm_(logits.T, rows[part])
        else:
            weight_gradient += logits.T @ rows[part]
    return losses.sum(), rows_gradient, weight_gradient[:vocab_size]


def _padded(weight: Float[Tensor, "V D"], dtype: torch.dtype) -> Float[Tensor, "W D"]:
    """Return the weight in ``dtype``; a copy is padded with rows of zeros."""
    if dtype == weight.dtype:
        return weight.contiguous()
    vocab_size = len(weight)
    padded = weight.new_empty(-(-vocab_size // ROW_MULTIPLE) * ROW_MULTIPLE, weight.shape[1], dtype=dtype)
    padded[:vocab_size] = weight
    padded[vocab_size:] = 0
    return padded
