"""Llama in PyTorch; what it is stands in llama.py."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.llama import Config
from fabella.models.nn.attention_torch import KVCache, attend, require_room, split_heads
from fabella.models.nn.graph_torch import (
    AttentionOp,
    DecoderGraph,
    EmbeddingOp,
    LinearOp,
    Part,
    SwiGLUOp,
    root_mean_square,
    turns,
)
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.packed_linear_torch import LinearFactory


class RotaryTable(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Tensor, "S P"]
    sin: Float[Tensor, "S P"]


class State(NamedTuple):
    layers: list[KVCache]
    rotary_table: RotaryTable


def angles(config: Config, length: int, device: torch.device) -> RotaryTable:
    """Pair p turns by base^(−2p/E) a position (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    head_dim = config.dim // config.heads
    pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    frequencies = config.rotary_base ** (-pairs / head_dim)
    rotary_complex = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    return RotaryTable(rotary_complex.cos(), rotary_complex.sin())


def apply_rotary(x: Float[Tensor, "B H T E"], by: RotaryTable) -> Float[Tensor, "B H T E"]:
    """Turns dim i together with dim i + E/2: the order in which HF keeps Llama's weights."""
    first, second = x.chunk(2, dim=3)
    turned = torch.cat((first * by.cos - second * by.sin, second * by.cos + first * by.sin), dim=3)
    return turned.type_as(x)


class Attention(nn.Module):
    """Every position asks all positions up to its own; heads/kv_heads queries share a key and a value."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_dim = config.dim // config.heads * config.kv_heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, kv_dim, bias=False)
        self.value = nn.Linear(config.dim, kv_dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], by: RotaryTable, past: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        query = apply_rotary(split_heads(self.query(x), self.heads), by)
        key = apply_rotary(split_heads(self.key(x), self.kv_heads), by)
        value = split_heads(self.value(x), self.kv_heads)
        return self.output(attend(query, key, value, past))


class Block(nn.Module):
    """Attention, then SwiGLU: each reads the normed stream and adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], by: RotaryTable, past: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), by, past))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Model(CausalLM):
    """The embedding, the blocks, a last norm, the head."""

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

    def hidden_states(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        start = state.layers[0].length if state else 0
        end = start + tokens.shape[1]
        require_room(end, self.config.context_length, "context")
        table = state.rotary_table if state else angles(self.config, end, tokens.device)
        by = RotaryTable(table.cos[start:end], table.sin[start:end])
        x = self.dropout(self.embedding(tokens))
        for layer, block in enumerate(self.blocks):
            x = block(x, by, state.layers[layer] if state else None)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c, like = self.config, self.norm.weight.detach()
        require_room(capacity, c.context_length, "context")
        layers = [KVCache(batch_size, c.kv_heads, capacity, c.dim // c.heads, like) for _ in self.blocks]
        return State(layers, angles(c, capacity, like.device))

    def decoder(self, layout: LinearFactory) -> DecoderGraph:
        """The network laid out for telling; see nn_decoding_torch.py."""
        c = self.config
        turning = turns(*angles(c, c.context_length, self.norm.weight.device), pairs=c.dim // c.heads // 2)
        parts: list[Part] = []
        for block in self.blocks:
            before, between = root_mean_square(block.attention_norm), root_mean_square(block.feed_forward_norm)
            parts.append(
                AttentionOp(
                    block.attention,
                    before,
                    layout,
                    heads=c.heads,
                    kv_heads=c.kv_heads,
                    turns=turning,
                    half_rotation=True,
                )
            )
            parts.append(SwiGLUOp(block.feed_forward, between, layout))
        last = LinearOp(layout, root_mean_square(self.norm), self.head_weight)
        return DecoderGraph(EmbeddingOp(self.embedding.weight), parts, [last])
