"""MinGRU recurrence h_t = (1 − z_t)·h_{t−1} + z_t·h̃_t, for sequences and single tokens.

Feng et al. 2024 (arXiv 2410.01201) scan in log space, because a scan of products underflows. Written as a step from
h_{t−1} towards h̃_t, with z_t between 0 and 1, nothing grows or vanishes: h stays between the smallest and the largest
h̃ so far. A CPU computes it in this form, in time order, and the gradient by the same recurrence backwards. A GPU, on
which a kernel launch costs more than a time step, scans all steps in parallel, in log₂ T passes.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn.kernels.fused_layers_torch import fused_recurrence
from fabella.models.nn.kernels.tensors_torch import kernels_for
from fabella.models.nn.layers_torch import RMSNorm


class MinGRU(nn.Module):
    """MinGRU layer: gate and candidate depend on the input only (arXiv 2410.01201, section 3.1)."""

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, state_dim, bias=False)
        self.candidate = nn.Linear(dim, state_dim, bias=False)
        self.output = nn.Linear(state_dim, dim, bias=False) if state_dim != dim else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        initial: Float[Tensor, "B S"] | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Return the output at every position and the last hidden state; continues from ``initial`` (None: 0).

        ``document_starts``: as in ``recur``.
        """
        hidden = self.hidden_states(x, initial, document_starts)
        return self.output(hidden), hidden[:, -1]

    def hidden_states(
        self,
        x: Float[Tensor, "B T D"],
        initial: Float[Tensor, "B S"] | None,
        document_starts: Int[Tensor, "B T"] | None,
    ) -> Float[Tensor, "B T S"]:
        """Return the hidden state at every position, before the output projection."""
        gate, candidate = self.gate(x), self.candidate(x)
        start = gate.new_zeros(gate.shape[0], gate.shape[2]) if initial is None else initial
        return recur(gate, candidate, start, document_starts)


class GatedMinGRU(MinGRU):
    """MinGRU whose hidden state is normed and gated by the input before its output projection; its gate has a bias."""

    def __init__(self, dim: int, state_dim: int, norm_eps: float) -> None:
        super().__init__(dim, state_dim)
        self.gate = nn.Linear(dim, state_dim)
        self.output = nn.Linear(state_dim, dim, bias=False)
        self.output_norm = RMSNorm(state_dim, norm_eps)
        self.output_gate = nn.Linear(dim, state_dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        initial: Float[Tensor, "B S"] | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
        plain: Float[Tensor, "B T D"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Return the output and the last hidden state. ``plain``: ``x`` before a convolution, if there is one.

        ``document_starts``: as in ``recur``.
        """
        hidden = self.hidden_states(x, initial, document_starts)
        gated = self.output_norm(hidden) * functional.silu(self.output_gate(x if plain is None else plain))
        return self.output(gated), hidden[:, -1]


def recur(
    gate: Float[Tensor, "B T S"],
    candidate: Float[Tensor, "B T S"],
    initial: Float[Tensor, "B S"],
    document_starts: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T S"]:
    """Return all h_t for z = σ(gate), h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below; h_{−1} = ``initial``.

    Computed in float32 for half-precision inputs. ``document_starts``: position, int32, at which the document of each
    position starts; there, h_{t−1} is 0.
    """
    kernels = kernels_for(gate, candidate, initial)
    if kernels is not None:
        return fused_recurrence(kernels, gate, candidate, initial, document_starts)
    return _Recurrence.apply(gate, candidate, initial, document_starts)


def candidate_state(candidate: Float[Tensor, "B T S"]) -> Float[Tensor, "B T S"]:
    """Return h̃ = g(candidate), g(x) = x + 0.5 for x ≥ 0 and σ(x) below."""
    return candidate.clamp(max=0).sigmoid_().add_(candidate.clamp(min=0))


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, candidate: Tensor, initial: Tensor, document_starts: Tensor | None) -> Tensor:
        dtype = torch.promote_types(initial.dtype, torch.float32)
        z = gate.to(dtype).sigmoid()
        h_tilde = candidate_state(candidate.to(dtype))
        if use_parallel_scan(gate.device):
            log_keep, add = _log_keep(gate.to(dtype), document_starts), z * h_tilde
            add[:, 0].addcmul_(log_keep[:, 0].exp(), initial.to(dtype))
            hidden = _parallel_scan(log_keep, add)
        else:
            hidden = _sequential_scan(z, h_tilde, initial.to(dtype), document_starts)
        ctx.save_for_backward(gate, h_tilde, hidden, initial, document_starts)
        ctx.dtype = gate.dtype
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        gate, h_tilde, hidden, initial, document_starts = ctx.saved_tensors
        z, rest = gate.to(hidden.dtype).sigmoid(), gate.to(hidden.dtype).neg().sigmoid_()  # σ(−gate), not 1 − z
        keep = rest if document_starts is None else rest.masked_fill(_is_start(document_starts), 0.0)
        # The gradient of h_t over all later steps is total_t = gradient_t + keep_{t+1} · total_{t+1}.
        if use_parallel_scan(gate.device):
            log_keep = _log_keep(gate.to(hidden.dtype), document_starts)
            later = log_keep.roll(-1, 1).flip(1)  # the value that wraps around is not used
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
        if document_starts is not None:
            step = torch.where(_is_start(document_starts), h_tilde, step)
        gate_gradient = step.mul_(h_tilde_gradient).mul_(rest)
        return gate_gradient.to(ctx.dtype), candidate_gradient.to(ctx.dtype), initial_gradient, None


def use_parallel_scan(device: torch.device) -> bool:
    """Return whether the device scans in parallel: on a GPU, a kernel launch costs more than a time step."""
    return device.type == "cuda"


def _is_start(document_starts: Int[Tensor, "B T"]) -> Bool[Tensor, "B T 1"]:
    """Return which positions are the first of a document."""
    return (document_starts == torch.arange(document_starts.shape[1], device=document_starts.device)).unsqueeze(2)


def _sequential_scan(z: Tensor, h_tilde: Tensor, initial: Tensor, document_starts: Tensor | None) -> Tensor:
    """Return h_t = h_{t−1} + z_t·(h̃_t − h_{t−1}), [B T S], in time order; h_{t−1} is 0 at the start of a document."""
    hidden = torch.empty_like(h_tilde)
    last, steps = initial, (hidden.unbind(1), h_tilde.unbind(1), z.unbind(1))
    starts = [None] * len(steps[0]) if document_starts is None else _is_start(document_starts).unbind(1)
    for h, h_new, z_t, start in zip(*steps, starts, strict=True):
        before = last if start is None else last.masked_fill(start, 0.0)
        last = torch.lerp(before, h_new, z_t, out=h)
    return hidden


def _log_keep(gate: Tensor, document_starts: Tensor | None) -> Tensor:
    """Return log(1 − z_t): adding logarithms multiplies thousands of factors near 1 without losing digits.

    It is −∞ at the start of a document.
    """
    log_keep = functional.logsigmoid(gate.neg())
    return log_keep if document_starts is None else log_keep.masked_fill(_is_start(document_starts), -torch.inf)


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
