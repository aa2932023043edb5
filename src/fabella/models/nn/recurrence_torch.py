"""MinGRU recurrence h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, for sequences and single tokens.

Feng et al. 2024 (arXiv 2410.01201) scan in log space, because a scan of products underflows. Written as a step from
h_{t−1} towards h̃_t, with z_t between 0 and 1, nothing grows or vanishes: h stays between the smallest and the largest
h̃ so far. A CPU computes it in this form, in time order, and the gradient by the same recurrence backwards. A GPU, on
which a kernel launch costs more than a time step, scans all steps in parallel, in log₂ T passes.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn.kernels.fused_layers_torch import fused_recurrence
from fabella.models.nn.kernels.tensors_torch import kernels_for


class MinGRU(nn.Module):
    """MinGRU layer: gate and candidate depend on the input only (arXiv 2410.01201, section 3.1)."""

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, state_dim, bias=False)
        self.candidate = nn.Linear(dim, state_dim, bias=False)
        self.output = nn.Linear(state_dim, dim, bias=False) if state_dim != dim else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B T D"], initial: Float[Tensor, "B S"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Return the output at every position and the last hidden state; continues from ``initial`` (None: 0)."""
        gate, candidate = self.gate(x), self.candidate(x)
        if initial is None:
            hidden = recur(gate, candidate, gate.new_zeros(gate.shape[0], gate.shape[2]))
        else:
            hidden = recur(gate, candidate, initial)
        return self.output(hidden), hidden[:, -1]


def recur(
    gate: Float[Tensor, "B T S"], candidate: Float[Tensor, "B T S"], initial: Float[Tensor, "B S"]
) -> Float[Tensor, "B T S"]:
    """Return all h_t for z = σ(gate), h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below; h_{−1} = ``initial``.

    Computed in float32 for half-precision inputs.
    """
    kernels = kernels_for(gate, candidate, initial)
    if kernels is not None:
        return fused_recurrence(kernels, gate, candidate, initial)
    return _Recurrence.apply(gate, candidate, initial)


def candidate_state(candidate: Float[Tensor, "B T S"]) -> Float[Tensor, "B T S"]:
    """Return h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below."""
    return candidate.clamp(max=0).sigmoid_().add_(candidate.clamp(min=0))


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, candidate: Tensor, initial: Tensor) -> Tensor:
        dtype = torch.promote_types(initial.dtype, torch.float32)
        z = gate.to(dtype).sigmoid()
        h_tilde = candidate_state(candidate.to(dtype))
        if use_parallel_scan(gate.device):
            log_keep, add = _log_keep(gate.to(dtype)), z * h_tilde
            add[:, 0].addcmul_(log_keep[:, 0].exp(), initial.to(dtype))
            hidden = _parallel_scan(log_keep, add)
        else:
            hidden = _sequential_scan(z, h_tilde, initial.to(dtype))
        ctx.save_for_backward(gate, h_tilde, hidden, initial)
        ctx.dtype = gate.dtype
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gate, h_tilde, hidden, initial = ctx.saved_tensors
        z, keep = gate.to(hidden.dtype).sigmoid(), gate.to(hidden.dtype).neg().sigmoid_()  # σ(−gate), not 1 − z
        # The gradient of h_t over all later steps is total_t = gradient_t + keep_{t+1} · total_{t+1}.
        if use_parallel_scan(gate.device):
            later = _log_keep(gate.to(hidden.dtype)).roll(-1, 1).flip(1)  # the value that wraps around is not used
            total = _parallel_scan(later, gradients[0].flip(1)).flip(1)
        else:
            total = gradients[0].clone(memory_format=torch.contiguous_format)
            backwards = list(zip(total.unbind(1), keep.unbind(1), strict=True))[::-1]
            for (later, keep_later), (now, _) in pairwise(backwards):
                now.addcmul_(keep_later, later)
        initial_gradient = total[:, 0] * keep[:, 0]
        h_tilde_gradient = total.mul_(z)
        slope = torch.ops.aten.sigmoid_backward(h_tilde_gradient, h_tilde)  # σ'(c), from σ(c)
        candidate_gradient = torch.where(h_tilde >= 0.5, h_tilde_gradient, slope)
        step = torch.empty_like(h_tilde)  # h̃_t − h_{t−1}
        torch.sub(h_tilde[:, 1:], hidden[:, :-1], out=step[:, 1:])
        torch.sub(h_tilde[:, 0], initial, out=step[:, 0])
        gate_gradient = step.mul_(h_tilde_gradient).mul_(keep)
        return gate_gradient.to(ctx.dtype), candidate_gradient.to(ctx.dtype), initial_gradient


def use_parallel_scan(device: torch.device) -> bool:
    """Return whether the device scans in parallel: on a GPU, a kernel launch costs more than a time step."""
    return device.type == "cuda"


def _sequential_scan(z: Tensor, h_tilde: Tensor, initial: Tensor) -> Tensor:
    """Return h_t = h_{t−1} + z_t·(h̃_t − h_{t−1}), [B T S], in time order."""
    hidden = torch.empty_like(h_tilde)
    last = initial
    for h, h_new, z_t in zip(hidden.unbind(1), h_tilde.unbind(1), z.unbind(1), strict=True):
        last = torch.lerp(last, h_new, z_t, out=h)
    return hidden


def _log_keep(gate: Tensor) -> Tensor:
    """Return log(1 − z_t): adding logarithms multiplies thousands of factors near 1 without losing digits."""
    return functional.logsigmoid(gate.neg())


def _parallel_scan(log_keep: Tensor, add: Tensor) -> Tensor:
    """Return h_t = keep_t·h_{t−1} + add_t, [B T S], with h_{−1} = 0 (Hillis & Steele 1986, "Data Parallel Algorithms").

    After each pass, add_t is the sum over the last 1, 2, 4 … steps, and keep_t the factor of the state preceding them.
    """
    offset = 1
    while offset < add.shape[1]:
        carried = torch.addcmul(add[:, offset:], log_keep[:, offset:].exp(), add[:, :-offset])
        add = torch.cat([add[:, :offset], carried], dim=1)
        log_keep = torch.cat([log_keep[:, :offset], log_keep[:, offset:] + log_keep[:, :-offset]], dim=1)
        offset *= 2
    return add
