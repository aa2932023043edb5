"""Llama in PyTorch; llama.py describes the architecture."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.llama import Config
from fabella.models.nn.attention_torch import CausalAttention, KVCache
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.rotary_torch import RotaryTable, apply_rotary, rotary_table


class State(NamedTuple):
    layers: list[KVCache]
    rotary: RotaryTable


class Block(nn.Module):
    """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = CausalAttention(config.dim, config.heads, kv_heads=config.kv_heads, rotate=apply_rotary)
        self.feed_forward_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotary: RotaryTable,
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), kv_cache, rotary, document_starts))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight

    def rotary_table(self, length: int, device: torch.device) -> RotaryTable:
        """Return the angles of the first ``length`` positions."""
        return rotary_table(self.config.dim // self.config.heads, self.config.rotary_base, length, device)

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        start = state.layers[0].length if state else 0
        end = start + tokens.shape[1]
        require_capacity(end, self.config.context_length, "context")
        table = state.rotary if state else self.rotary_table(end, tokens.device)
        rotary = table.span(start, end)
        x = self.dropout(self.embedding(tokens))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, state.layers[layer] if state else None, document_starts)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c, like = self.config, self.norm.weight.detach()
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache(batch_size, c.kv_heads, capacity, c.dim // c.heads, like) for _ in self.blocks]
        return State(layers, self.rotary_table(capacity, like.device))
