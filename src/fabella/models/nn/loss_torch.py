"""The read-out head and its loss together, without ever holding the logits of a whole batch.

For a vocabulary of 50,257 the logits of 4,096 tokens are 0.8 GB, and their gradient as much again. Here they are made
a few rows at a time, and while a chunk is at hand its gradients are formed, too: the idea of Liger Kernel (Hsu et al.
2024, arXiv 2410.10989, section 3.2). The result is that of ``cross_entropy(hidden @ weight.T, targets)``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fabella.models import IGNORE

ROWS = 320
"""Rows of logits at once: enough for the matrix products to run at full speed; of 50,257 ids they take 64 MB."""
LOGITS_ON_CPU, LOGITS_ON_GPU = 2**20, 2**27
"""Logits at once where that is more rows: what stays in a CPU's cache; 512 MB on a GPU, where every launch counts."""


def linear_cross_entropy(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, ""]:
    """Cross-entropy in nats of ``hidden @ weight.T``, mean over the targets that are not IGNORE; 0 where all are."""
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        total = _LinearCrossEntropy.apply(hidden.flatten(0, -2), weight, targets.flatten())
    else:
        total = linear_losses(hidden, weight, targets).sum()
    return total / (targets != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def linear_losses(
    hidden: Float[Tensor, "*b D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """Each target's negative log-likelihood in nats under ``hidden @ weight.T``; 0 where IGNORE. Without gradients."""
    losses = torch.zeros(targets.numel(), dtype=_exact(hidden), device=hidden.device)
    learned, dtype = _learned(targets), _compute_dtype(hidden)
    rows, wanted = hidden.flatten(0, -2)[learned], targets.flatten()[learned]
    found = losses[learned]
    for part, logits in _logits(rows.to(dtype), weight.to(dtype)):
        found[part] = functional.cross_entropy(
            logits.to(losses.dtype), wanted[part], ignore_index=IGNORE, reduction="none"
        )
    losses[learned] = found
    return losses.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the losses. The gradients are formed in forward, undivided, so that a loss scale still lifts them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        learned, dtype = _learned(targets), _compute_dtype(hidden)
        rows, wanted, matrix = hidden[learned].to(dtype), targets[learned], weight.to(dtype)
        rows_gradient, weight_gradient = torch.empty_like(rows), torch.zeros_like(weight)
        total = torch.zeros((), dtype=_exact(hidden), device=hidden.device)
        for part, logits in _logits(rows, matrix):
            losses, gradient = _losses_and_gradient(logits.to(total.dtype), wanted[part])
            total += losses.sum()
            gradient = gradient.to(dtype)
            torch.mm(gradient, matrix, out=rows_gradient[part])
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, rows[part])
            else:
                weight_gradient += gradient.T @ rows[part]
        hidden_gradient = torch.zeros_like(hidden, dtype=dtype)
        hidden_gradient[learned] = rows_gradient
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


def _learned(targets: Int[Tensor, "*b"]) -> Tensor | slice:
    """The rows worth computing. A GPU would have to wait for the answer: there it is all of them."""
    if targets.device.type != "cpu":
        return slice(None)
    return targets.flatten().ne(IGNORE).nonzero().squeeze(1)


def _logits(rows: Float[Tensor, "N D"], matrix: Float[Tensor, "V D"]) -> Iterator[tuple[slice, Tensor]]:
    """A chunk of the rows at a time, and its logits [n V], which those of the next chunk overwrite."""
    vocab_size = len(matrix)
    size = max(ROWS, (LOGITS_ON_CPU if rows.device.type == "cpu" else LOGITS_ON_GPU) // vocab_size)
    # Rows that begin anywhere, as those of 50,257 floats do, slow the product by a third; rows of a power of two by a
    # tenth, as they meet in the same lines of the cache. So each has its own start, at a multiple of 64 bytes.
    apart = (vocab_size // 16 + 1) * 16
    buffer = rows.new_empty(min(size, len(rows)), apart)[:, :vocab_size]
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        yield part, torch.mm(rows[part], matrix.T, out=buffer[: part.stop - start])


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


def _exact(x: Tensor) -> torch.dtype:
    """What a softmax is taken in: float32, or wider where the model is."""
    return torch.promote_types(x.dtype, torch.float32)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product computes in here: autocast's type where it is on, as for any other layer."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
