"""Blocks that two or more families use: the causal LM with one output head, RMSNorm, SwiGLU, the GELU MLP."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.errors import UsageError
from fabella.models.nn.kernels.fused_layers_torch import fused_gelu, fused_rms_norm, fused_swiglu
from fabella.models.nn.kernels.fused_residual_torch import fused_scaled_sum, fused_sum_norm
from fabella.models.nn.kernels.tensors_torch import DTYPES, has_hooks, kernels_for
from fabella.models.nn.loss_torch import linear_cross_entropy, linear_losses

INTEGERS = (torch.int64, torch.int32)
"""Data types that an embedding reads."""


class CausalLM(nn.Module):
    """Base of a model with one output head: logits = hidden states @ ``head_weight``.T.

    A family writes ``head_weight``, ``hidden_states`` and ``init_state``; the rest of the model contract is here.
    """

    @property
    @abstractmethod
    def head_weight(self) -> Float[Tensor, "V D"]:
        """Weight of the output head: a parameter of its own, or the tied embedding."""

    @abstractmethod
    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: Any = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return the output of the last block, ready for the head; with ``state``, continue from it and update it.

        ``document_starts``: as in ``loss``; not with ``state``.
        """

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return next-token logits at every position. Raises UsageError for anything but a 2-D tensor of integers."""
        require_token_ids(tokens)
        return functional.linear(self.hidden_states(tokens), self.head_weight)

    def loss(
        self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the training loss in nats, mean over the targets that are not IGNORE.

        ``document_starts``: position at which the document of each token starts; nothing before it has an influence.
        """
        hidden = self._masked_hidden_states(tokens, document_starts)
        return linear_cross_entropy(hidden, self.head_weight, targets)

    @torch.no_grad()
    def token_losses(
        self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-likelihood of each target in nats; 0 where IGNORE. Without gradients."""
        hidden = self._masked_hidden_states(tokens, document_starts)
        return linear_losses(hidden, self.head_weight, targets)

    def _masked_hidden_states(self, tokens: Tensor, document_starts: Tensor | None) -> Tensor:
        # A family that does not mask documents has a ``hidden_states`` of two arguments.
        return (
            self.hidden_states(tokens) if document_starts is None else self.hidden_states(tokens, None, document_starts)
        )

    @torch.no_grad()
    def decode(self, tokens: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Return the logits of the last position after T more tokens, and ``state``, which is updated in place."""
        last = self.hidden_states(tokens, state)[:, -1]
        # weight @ x.T rather than x @ weight.T: for 2 to 8 sequences, up to twice as fast on a CPU
        return (self.head_weight @ last.T).T.contiguous(), state


def require_token_ids(tokens: object) -> None:
    """Raise UsageError unless ``tokens`` is a 2-D tensor of integers."""
    if not isinstance(tokens, Tensor):
        raise UsageError(
            f"Expected token ids as a tensor, got {type(tokens).__name__}.", hint="Try model(torch.tensor([ids]))."
        )
    if tokens.ndim != 2:
        raise UsageError(
            f"Expected token ids of shape [batch, length], got {list(tokens.shape)}.",
            hint="One sequence is a batch of one: model(tokens[None]).",
        )
    if tokens.dtype not in INTEGERS:
        raise UsageError(f"Expected integer token ids, got {tokens.dtype}.", hint="Try model(tokens.long()).")


class RMSNorm(nn.Module):
    """RMSNorm with a learned scale, or without one (``scale=False``)."""

    weight: nn.Parameter
    """[dim]; no parameter without a scale."""

    def __init__(self, dim: int, eps: float = 1e-6, *, scale: bool = True) -> None:
        super().__init__()
        self.eps, self.scale = eps, scale
        self.register_parameter("weight", nn.Parameter(torch.ones(dim)) if scale else None)

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        return rms_norm(x, self.scale_weight(x), self.eps)

    def scale_weight(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, " D"]:
        """Return the learned scale, or ones on the device and in the dtype of ``x``."""
        return self.weight if self.scale else x.new_ones(x.shape[-1])


def rms_norm(x: Float[Tensor, "*b D"], weight: Float[Tensor, " D"], eps: float = 1e-6) -> Float[Tensor, "*b D"]:
    """Return x / √(mean(x²) + eps) · weight, in float32 or wider (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).

    With training kernels in mixed precision, the result is rounded to the data type of the linear layer that reads it.
    """
    kernels = kernels_for(x, weight)
    if kernels is not None and x.dtype == torch.float32:
        return fused_rms_norm(kernels, x, weight, eps, _linear_dtype())
    if x.device.type != "cpu" or x.dtype.itemsize < 4 or torch.compiler.is_compiling():
        return functional.rms_norm(x, (x.shape[-1],), weight, eps)
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return (x * _inverse_rms(x, eps)).mul_(weight)


def sum_and_norm(
    x: Float[Tensor, "*b D"], z: Float[Tensor, "*b D"], norm: RMSNorm, factors: Float[Tensor, " 2"] | None = None
) -> tuple[Float[Tensor, "*b D"], Float[Tensor, "*b D"]]:
    """Return y = x + z, or factors[0]·x + factors[1]·z, and norm(y).

    In training on a CPU, in one pass over memory, unless ``norm`` has hooks, which need its call.
    """
    weight = norm.scale_weight(x)
    kernels = kernels_for(x, weight, *(() if factors is None else (factors,)))
    if kernels is not None and x.dtype == torch.float32 and z.dtype in DTYPES and not has_hooks(norm):
        return fused_sum_norm(kernels, x, z, factors, weight, (norm.eps, _linear_dtype()))
    y = x + z if factors is None else scaled_sum(x, z, factors)
    return y, norm(y)


def scaled_sum(
    x: Float[Tensor, "*b D"], z: Float[Tensor, "*b D"], factors: Float[Tensor, " 2"]
) -> Float[Tensor, "*b D"]:
    """Return factors[0]·x + factors[1]·z in the dtype of ``x`` and ``z``."""
    kernels = kernels_for(x, z)
    if kernels is not None and factors.dtype == torch.float32:
        return fused_scaled_sum(kernels, x, z, factors)
    first, second = factors.to(x.dtype).unbind()
    return first * x + second * z


def _linear_dtype() -> torch.dtype:
    """Return the dtype in which the next linear layer reads its input in training on a CPU."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32


def _inverse_rms(x: Float[Tensor, "*b D"], eps: float) -> Float[Tensor, "*b 1"]:
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return mean_square.add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """RMSNorm for training on CPUs: PyTorch has no fused kernel there, and this takes half its passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        products, scales = (x * gradients[0]).flatten(0, -2), scale.flatten()
        # y = s·w·x and ∂s/∂x = −s³·x/D: x_gradient = s·w·g − x · s³/D · Σ w·g·x
        through_scale = (products @ weight).mul_(scales.pow(3)).div_(x.shape[-1]).view_as(scale)
        x_gradient = (gradients[0] * weight).mul_(scale).addcmul_(x, through_scale, value=-1)
        return x_gradient, scales @ products, None


class SwiGLU(nn.Module):
    """SwiGLU MLP: down(silu(gate x) · up x), without biases (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, ffn_dim, bias=False)
        self.up = nn.Linear(dim, ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        gate, up = self.gate(x), self.up(x)
        kernels = kernels_for(gate, up)
        return self.down(functional.silu(gate) * up if kernels is None else fused_swiglu(kernels, gate, up))


class GELUMLP(nn.Module):
    """MLP with one hidden layer: down(GELU(up x)), with biases (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, dim: int, ffn_dim: int, *, approximate: str = "none") -> None:
        """``approximate``: "none", or "tanh" for the approximation of the original GPT-2."""
        super().__init__()
        self.approximate = approximate
        self.up = nn.Linear(dim, ffn_dim)
        self.down = nn.Linear(ffn_dim, dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        up = self.up(x)
        kernels = kernels_for(up)
        if kernels is None:
            return self.down(functional.gelu(up, approximate=self.approximate))
        return self.down(fused_gelu(kernels, up, tanh=self.approximate == "tanh"))
