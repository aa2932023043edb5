"""The read-out head and its loss together, without ever holding the logits of a whole batch.

For a vocabulary of 50,257 the logits of 4,096 tokens are 0.8 GB, and their gradient as much again. Here they are made
a few rows at a time, and while a chunk is at hand its gradients are formed, too: the idea of Liger Kernel (Hsu et al.
2024, arXiv 2410.10989, section 3.2). The result is that of ``functional.cross_entropy(hidden @ weight.T, targets)``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fabella.models import IGNORE

CHUNK = 2**24
"""Logits held at once: 64 MiB of float32, large enough for the matrix products to run at full speed."""


def linear_cross_entropy(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Cross-entropy in nats of ``hidden @ weight.T``, mean over the targets that are not IGNORE; 0 where all are."""
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        total = _LinearCrossEntropy.apply(rows, weight, wanted)
    else:
        total = linear_losses(rows, weight, wanted).sum()
    return total / (wanted != IGNORE).sum().clamp(min=1)


def linear_losses(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """Each target's negative log-likelihood in nats under ``hidden @ weight.T``; 0 where IGNORE. Without gradients."""
    rows, wanted = hidden.detach().flatten(0, -2), targets.flatten()
    losses = torch.empty(wanted.shape, dtype=_exact(hidden), device=hidden.device)
    for part in _chunks(len(wanted), len(weight)):
        logits = functional.linear(rows[part], weight.detach()).to(losses.dtype)
        losses[part] = functional.cross_entropy(logits, wanted[part], ignore_index=IGNORE, reduction="none")
    return losses.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the losses. The gradients are formed in forward, undivided, so that a loss scale still lifts them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        dtype = _compute_dtype(hidden)
        rows, matrix = hidden.to(dtype), weight.to(dtype)
        hidden_gradient, weight_gradient = torch.empty_like(rows), torch.zeros_like(weight)
        total = hidden.new_zeros((), dtype=_exact(hidden))
        for part in _chunks(len(targets), len(weight)):
            logits = rows[part] @ matrix.T
            losses, gradient = _losses_and_gradient(logits.to(total.dtype), targets[part])
            total += losses.sum()
            gradient = gradient.to(dtype)
            torch.mm(gradient, matrix, out=hidden_gradient[part])
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, rows[part])
            else:
                weight_gradient += gradient.T @ rows[part]
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


def _losses_and_gradient(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
    """Each row's loss, and its gradient softmax − one-hot, which overwrites ``logits``; both 0 where IGNORE."""
    learned = targets != IGNORE
    index = torch.where(learned, targets, 0).unsqueeze(1)
    wanted = logits.gather(1, index)
    top = logits.amax(1, keepdim=True)
    gradient = logits.sub_(top).exp_()
    total = gradient.sum(1, keepdim=True)
    losses = (total.log() + top - wanted).squeeze(1) * learned
    gradient.mul_(learned.unsqueeze(1) / total)
    gradient.scatter_add_(1, index, -learned.unsqueeze(1).to(gradient.dtype))
    return losses, gradient


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK // vocabulary)
    return (slice(start, start + size) for start in range(0, rows, size))


def _exact(x: Tensor) -> torch.dtype:
    """What a softmax is taken in: float32, or wider where the model is."""
    return torch.promote_types(x.dtype, torch.float32)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product computes in here: autocast's type where it is on, as for any other layer."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
