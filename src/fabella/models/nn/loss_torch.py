"""Output head and cross-entropy in chunks of rows, so that the logits of a whole batch never exist.

For a vocabulary of 50,257 the logits of 4,096 tokens are 0.8 GB, and their gradient as much again. Here they are
computed a few rows at a time, and the gradients of a chunk while its logits exist: the idea of Liger Kernel (Hsu et
al. 2024, arXiv 2410.10989, section 3.2). The result is that of ``cross_entropy(hidden @ weight.T, targets)``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fabella.models import IGNORE
from fabella.models.nn.kernels.fused_loss_torch import fused_linear_cross_entropy
from fabella.models.nn.kernels.tensors_torch import DTYPES, kernels_for

ROWS = 320
"""Minimum rows of logits per chunk: enough for efficient head_weight products; 64 MB for a vocabulary of 50,257."""
LOGITS_ON_CPU, LOGITS_ON_GPU = 2**20, 2**27
"""Number of logits per chunk if that is more rows: as stay in a CPU's cache; 512 MB on a GPU, for few launches."""


def linear_cross_entropy(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of ``hidden @ weight.T`` in nats, mean over the targets not IGNORE; 0 if all are."""
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        total = _loss_with_gradients(hidden.flatten(0, -2), weight, targets.flatten())
    else:
        total = linear_losses(hidden, weight, targets).sum()
    return total / (targets != IGNORE).sum().clamp(min=1)


def _loss_with_gradients(
    hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Return the sum of the losses, by the training kernels where they are in use."""
    dtype, kernels = _compute_dtype(hidden), kernels_for(weight)
    if kernels is not None and kernels_for(hidden) is not None and dtype in DTYPES:
        return fused_linear_cross_entropy(kernels, hidden, weight, targets, dtype)
    return _LinearCrossEntropy.apply(hidden, weight, targets)


@torch.no_grad()
def linear_losses(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """Return each target's negative log-likelihood in nats under ``hidden @ weight.T``; 0 where IGNORE."""
    losses = torch.zeros(targets.numel(), dtype=_loss_dtype(hidden), device=hidden.device)
    has_loss, dtype = _has_loss(targets), _compute_dtype(hidden)
    rows, row_targets = hidden.flatten(0, -2)[has_loss], targets.flatten()[has_loss]
    row_losses = losses[has_loss]
    for part, logits in _logits(rows.to(dtype), weight.to(dtype)):
        row_losses[part] = functional.cross_entropy(
            logits.to(losses.dtype), row_targets[part], ignore_index=IGNORE, reduction="none"
        )
    losses[has_loss] = row_losses
    return losses.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the losses. Gradients are computed in forward, not yet divided, so that a loss scale applies to them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        has_loss, dtype = _has_loss(targets), _compute_dtype(hidden)
        rows, row_targets, head_weight = hidden[has_loss].to(dtype), targets[has_loss], weight.to(dtype)
        rows_gradient, weight_gradient = torch.empty_like(rows), torch.zeros_like(weight)
        total = torch.zeros((), dtype=_loss_dtype(hidden), device=hidden.device)
        for part, logits in _logits(rows, head_weight):
            losses, gradient = _losses_and_gradient(logits.to(total.dtype), row_targets[part])
            total += losses.sum()
            gradient = gradient.to(dtype)
            torch.mm(gradient, head_weight, out=rows_gradient[part])
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, rows[part])
            else:
                weight_gradient += gradient.T @ rows[part]
        hidden_gradient = torch.zeros_like(hidden, dtype=dtype)
        hidden_gradient[has_loss] = rows_gradient
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return (hidden_gradient * gradients[0]).to(ctx.dtype), weight_gradient * gradients[0], None


def _has_loss(targets: Int[Tensor, "*b"]) -> Tensor | slice:
    """Return the rows that have a target. On a GPU, return all rows: finding them would wait for the device."""
    if targets.device.type != "cpu":
        return slice(None)
    return targets.flatten().ne(IGNORE).nonzero().squeeze(1)


def _logits(rows: Float[Tensor, "N D"], head_weight: Float[Tensor, "V D"]) -> Iterator[tuple[slice, Tensor]]:
    """Yield each chunk of rows and its logits [n V], which those of the next chunk overwrite."""
    vocab_size = len(head_weight)
    size = max(ROWS, (LOGITS_ON_CPU if rows.device.type == "cpu" else LOGITS_ON_GPU) // vocab_size)
    # Unaligned rows, as of 50,257 floats, slow the product down by a third; a stride that is a power of two by a tenth,
    # because rows collide in the cache. So the stride is the next multiple of 64 bytes above the row.
    stride = (vocab_size // 16 + 1) * 16
    buffer = rows.new_empty(min(size, len(rows)), stride)[:, :vocab_size]
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        yield part, torch.mm(rows[part], head_weight.T, out=buffer[: part.stop - start])


def _losses_and_gradient(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
    """Return the loss of each row and its gradient softmax − one-hot, stored in ``logits``; both 0 where IGNORE."""
    has_loss = targets != IGNORE
    index = torch.where(has_loss, targets, 0).unsqueeze(1)
    target_logit = logits.gather(1, index)
    max_logit = logits.amax(1, keepdim=True)
    gradient = logits.sub_(max_logit).exp_()
    total = gradient.sum(1, keepdim=True)
    losses = (total.log() + max_logit - target_logit).squeeze(1) * has_loss
    gradient.mul_(has_loss.unsqueeze(1) / total)
    gradient.scatter_add_(1, index, -has_loss.unsqueeze(1).to(gradient.dtype))
    return losses, gradient


def _loss_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of softmax and loss: float32, or float64 for a float64 model."""
    return torch.promote_types(x.dtype, torch.float32)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of head_weight products: that of autocast if it is enabled, as in any other layer."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
