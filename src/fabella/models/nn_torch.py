"""Blocks that two or more families use unchanged: the frame of a model with one head, and SwiGLU."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn_loss_torch import linear_cross_entropy, linear_losses


class OneHead(nn.Module):
    """The contract of a model whose logits are ``head_weight`` times the hidden state that it reads a text into."""

    @property
    @abstractmethod
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The read-out matrix: a weight of its own, or the embedding."""

    @abstractmethod
    def read(self, tokens: Int[Tensor, "B T"], state: Any = None) -> Float[Tensor, "B T D"]:
        """The last hidden state at every position; a ``state`` is read on from and brought up to date."""

    def logits(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Next-token logits at every position."""
        return functional.linear(self.read(tokens), self.head_weight)

    def loss(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Training loss in nats, mean over the targets that are not IGNORE."""
        return linear_cross_entropy(self.read(tokens), self.head_weight, targets)

    @torch.no_grad()
    def losses(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Each target's negative log-likelihood in nats; 0 where IGNORE."""
        return linear_losses(self.read(tokens), self.head_weight, targets)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """The last position's logits after reading on; the state given is brought up to date, not copied."""
        return functional.linear(self.read(tokens, state)[:, -1], self.head_weight), state


class SwiGLU(nn.Module):
    """down(silu(gate x) · up x), without biases (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(functional.silu(self.gate(x)) * self.up(x))
