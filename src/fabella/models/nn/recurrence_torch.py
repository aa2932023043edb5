"""MinGRU: the recurrence h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, whole texts and single tokens alike.

Feng et al. 2024 (arXiv 2410.01201) scan it in log space, because a scan of products underflows. Written as a step from
h_{t−1} towards h̃_t, with z_t between 0 and 1, nothing grows or vanishes: h stays between the smallest and the
largest h̃ seen. So a CPU computes it as it is written, in time order, and its gradient by the same recurrence backwards.
A GPU, to which a step of time is too little work to be told of, does the same for all times at once, in log₂ T passes.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class MinGRU(nn.Module):
    """Gate and candidate look at the input alone (arXiv 2410.01201, section 3.1)."""

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, state_dim, bias=False)
        self.candidate = nn.Linear(dim, state_dim, bias=False)
        self.output = nn.Linear(state_dim, dim, bias=False) if state_dim != dim else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B T D"], before: Float[Tensor, "B S"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Output at every position and the last hidden state; ``before`` is the one to go on from, 0 where None."""
        gate, candidate = self.gate(x), self.candidate(x)
        if before is None:
            hidden = recur(gate, candidate, gate.new_zeros(gate.shape[0], gate.shape[2]))
        else:
            hidden = recur(gate, candidate, before)
        return self.output(hidden), hidden[:, -1]


def recur(
    gate: Float[Tensor, "B T S"], candidate: Float[Tensor, "B T S"], before: Float[Tensor, "B S"]
) -> Float[Tensor, "B T S"]:
    """All h_t, with z = σ(gate), h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below; h_{−1} = ``before``.

    Computed in float32 or wider, whatever the precision of the inputs.
    """
    return _Recurrence.apply(gate, candidate, before)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, candidate: Tensor, before: Tensor) -> Tensor:
        dtype = torch.promote_types(before.dtype, torch.float32)
        z = gate.to(dtype).sigmoid()
        towards = candidate.to(dtype).clamp(max=0).sigmoid_().add_(candidate.clamp(min=0))
        if at_once(gate.device):
            log_keep, add = _log_keep(gate.to(dtype)), z * towards
            add[:, 0].addcmul_(log_keep[:, 0].exp(), before.to(dtype))
            hidden = _all_at_once(log_keep, add)
        else:
            hidden = _step_by_step(z, towards, before.to(dtype))
        ctx.save_for_backward(gate, towards, hidden, before)
        ctx.dtype = gate.dtype
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gate, towards, hidden, before = ctx.saved_tensors
        z, keep = gate.to(hidden.dtype).sigmoid(), gate.to(hidden.dtype).neg().sigmoid_()  # 1 − z has no digits near 1
        # The gradient of h_t and all that follows from it: total_t = gradient_t + keep_{t+1} · total_{t+1}
        if at_once(gate.device):
            later = _log_keep(gate.to(hidden.dtype)).roll(-1, 1).flip(1)  # the last t has none: nothing asks for it
            total = _all_at_once(later, gradients[0].flip(1)).flip(1)
        else:
            total = gradients[0].clone(memory_format=torch.contiguous_format)
            backwards = list(zip(total.unbind(1), keep.unbind(1), strict=True))[::-1]
            for (later, keep_later), (now, _) in pairwise(backwards):
                now.addcmul_(keep_later, later)
        before_gradient = total[:, 0] * keep[:, 0]
        towards_gradient = total.mul_(z)
        slope = torch.ops.aten.sigmoid_backward(towards_gradient, towards)  # σ'(c), from σ(c)
        candidate_gradient = torch.where(towards >= 0.5, towards_gradient, slope)
        step = torch.empty_like(towards)  # h̃_t − h_{t−1}
        torch.sub(towards[:, 1:], hidden[:, :-1], out=step[:, 1:])
        torch.sub(towards[:, 0], before, out=step[:, 0])
        gate_gradient = step.mul_(towards_gradient).mul_(keep)
        return gate_gradient.to(ctx.dtype), candidate_gradient.to(ctx.dtype), before_gradient


def at_once(device: torch.device) -> bool:
    """Whether all times are computed at once: where a launch costs more than a step of time."""
    return device.type == "cuda"


def _step_by_step(z: Tensor, towards: Tensor, before: Tensor) -> Tensor:
    """h_t = h_{t−1} + z_t·(h̃_t − h_{t−1}), [B T S]."""
    hidden = torch.empty_like(towards)
    last = before
    for h, h_new, z_t in zip(hidden.unbind(1), towards.unbind(1), z.unbind(1), strict=True):
        last = torch.lerp(last, h_new, z_t, out=h)
    return hidden


def _log_keep(gate: Tensor) -> Tensor:
    """log (1 − z_t): thousands of factors near 1 are multiplied without losing digits by adding their logarithms."""
    return functional.logsigmoid(gate.neg())


def _all_at_once(log_keep: Tensor, add: Tensor) -> Tensor:
    """h_t = keep_t·h_{t−1} + add_t, [B T S], with h_{−1} = 0 (Hillis & Steele 1986, "Data Parallel Algorithms").

    After each pass, add_t holds what all of the last 1, 2, 4 … steps add up to, and keep_t what they leave of h before.
    """
    reach = 1
    while reach < add.shape[1]:
        carried = torch.addcmul(add[:, reach:], log_keep[:, reach:].exp(), add[:, :-reach])
        add = torch.cat([add[:, :reach], carried], dim=1)
        log_keep = torch.cat([log_keep[:, :reach], log_keep[:, reach:] + log_keep[:, :-reach]], dim=1)
        reach *= 2
    return add
