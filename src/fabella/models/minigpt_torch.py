"""MiniGPT in PyTorch; minigpt.py describes the architecture."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.minigpt import Config
from fabella.models.nn.attention_torch import CausalAttention, KVCache
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import CausalLM, SwiGLU
from fabella.models.nn.rotary_torch import RotaryTable, apply_rotary_interleaved, rotary_table


class State(NamedTuple):
    layers: list[KVCache]
    rotary: RotaryTable


class Block(nn.Module):
    """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, bias=False)
        self.attention = CausalAttention(config.dim, config.heads, rotate=apply_rotary_interleaved)
        self.feed_forward_norm = nn.LayerNorm(config.dim, bias=False)
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
    """A factorized embedding projected up to the model's width, the blocks, and the same embedding as head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding)
        self.input_projection = nn.Linear(config.embedding, config.dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.output_projection = nn.Linear(config.dim, config.embedding, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight

    def rotary_table(self, length: int, device: torch.device) -> RotaryTable:
        """Return the angles of the first ``length`` positions, for the rotated dimensions of a head."""
        return rotary_table(self.config.rotary_dims, self.config.rotary_base, length, device)

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return [B T embedding]: projected down to the width of the embedding, which is the head."""
        start = state.layers[0].length if state else 0
        end = start + tokens.shape[1]
        require_capacity(end, self.config.context_length, "context")
        table = state.rotary if state else self.rotary_table(end, tokens.device)
        rotary = table.span(start, end)
        x = self.dropout(self.input_projection(self.embedding(tokens)))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, state.layers[layer] if state else None, document_starts)
        return self.output_projection(self.norm(x))

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c, like = self.config, self.norm.weight.detach()
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) for _ in self.blocks]
        return State(layers, self.rotary_table(capacity, like.device))
