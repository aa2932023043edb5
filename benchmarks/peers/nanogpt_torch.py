"""GPT-2 as in nanoGPT (Karpathy 2022, MIT license), a baseline of the training benchmark.

One matrix computes queries, keys and values; attention is PyTorch's; the loss needs the logits of the whole batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class NanoGPT(nn.Module):
    """GPT-2 with the sizes of a config of ``gpt2``."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.context_length, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss from tokens and targets [B, T]."""
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1)


class _Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.query_key_value, self.output = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.up, self.down = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.attention_norm(x))
        return x + self.down(functional.gelu(self.up(self.feed_forward_norm(x)), approximate=self.approximate))

    def _attend(self, x: Tensor) -> Tensor:
        batch, time, dim = x.shape
        parts = self.query_key_value(x).split(dim, dim=2)
        query, key, value = (part.view(batch, time, self.heads, dim // self.heads).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(attended.transpose(1, 2).contiguous().view(batch, time, dim))
