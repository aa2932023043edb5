"""Qwen in PyTorch; qwen.py describes the architecture."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.nn.attention_torch import AttentionSpec, KVCache, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.rotary_torch import RotaryTable, apply_rotary
from fabella.models.qwen import Config


class State(NamedTuple):
    layers: list[KVCache]
    rotary: RotaryTable


class Attention(nn.Module):
    """Causal grouped-query attention; queries and keys are normed per head before they are rotated."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_dim = config.kv_heads * config.head_dim
        self.query = nn.Linear(config.dim, config.heads * config.head_dim, bias=config.qkv_bias)
        self.key = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.value = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.query_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.output = nn.Linear(config.heads * config.head_dim, config.dim, bias=False)

    @property
    def spec(self) -> AttentionSpec:
        query, key = (norm if isinstance(norm, RMSNorm) else None for norm in (self.query_norm, self.key_norm))
        return AttentionSpec(self.heads, self.kv_heads, apply_rotary, query_norm=query, key_norm=key)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotary: RotaryTable,
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        query = head_norm(self.query_norm, split_heads(self.query(x), self.heads))
        key = head_norm(self.key_norm, split_heads(self.key(x), self.kv_heads))
        value = split_heads(self.value(x), self.kv_heads)
        attn_out = attend(apply_rotary(query, rotary), apply_rotary(key, rotary), value, kv_cache, document_starts)
        return self.output(attn_out)


def head_norm(norm: nn.Module, x: Float[Tensor, "B H T E"]) -> Float[Tensor, "B H T E"]:
    """Return each head normed, in the dtype of ``x``; computed in that of the scale, which mixed precision keeps."""
    return norm(x.to(norm.weight.dtype)).type_as(x) if isinstance(norm, RMSNorm) else x


class Block(nn.Module):
    """Pre-norm attention, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotary: RotaryTable,
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.attention_norm(x), rotary, kv_cache, document_starts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight

    def rotary_table(self, length: int, device: torch.device) -> RotaryTable:
        """Return the angles of the first ``length`` positions."""
        frequencies = torch.tensor(self.config.rotary_frequencies, dtype=torch.float32, device=device)
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
        return RotaryTable(angles.cos(), angles.sin())

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        start = state.layers[0].length if state else 0
        end = start + tokens.shape[1]
        require_capacity(end, self.config.context_length, "context")
        table = state.rotary if state else self.rotary_table(end, tokens.device)
        rotary = table.span(start, end)
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, state.layers[layer] if state else None, document_starts)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c, like = self.config, self.norm.weight.detach()
        require_capacity(capacity, c.context_length, "context")
        layers = [KVCache(batch_size, c.kv_heads, capacity, c.head_dim, like) for _ in self.blocks]
        return State(layers, self.rotary_table(capacity, like.device))
