"""MiniGPT in PyTorch; what it is stands in minigpt.py."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.minigpt import Config
from fabella.models.nn.attention_torch import KVCache, attend, require_room, split_heads
from fabella.models.nn.graph_torch import (
    AttentionOp,
    DecoderGraph,
    EmbeddingOp,
    LayerNorm,
    LinearOp,
    Part,
    SwiGLUOp,
    turns,
)
from fabella.models.nn.layers_torch import CausalLM, SwiGLU
from fabella.models.nn.packed_linear_torch import LinearFactory


class Angles(NamedTuple):
    """Cosine and sine of how far each pair of dims has turned at each position."""

    cos: Float[Tensor, "S P"]
    sin: Float[Tensor, "S P"]


class State(NamedTuple):
    layers: list[KVCache]
    angles: Angles


def angles(config: Config, length: int, device: torch.device) -> Angles:
    """Pair p turns by base^(−2p/R) a position, of R dims that turn (Su et al. 2021, arXiv 2104.09864, eq. 15)."""
    pairs = torch.arange(0, config.rotary_dims, 2, device=device, dtype=torch.float32)
    frequencies = config.rotary_base ** (-pairs / config.rotary_dims)
    turns = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    return Angles(turns.cos(), turns.sin())


def turn(x: Float[Tensor, "B H T E"], by: Angles) -> Float[Tensor, "B H T E"]:
    """Turns neighbouring dims (0, 1), (2, 3) … as far as the angles reach; the other dims stay."""
    turning, staying = x.split((2 * by.cos.shape[1], x.shape[3] - 2 * by.cos.shape[1]), dim=3)
    even, odd = turning[..., 0::2], turning[..., 1::2]
    turned = torch.stack((even * by.cos - odd * by.sin, even * by.sin + odd * by.cos), dim=4).flatten(3)
    return torch.cat((turned.type_as(x), staying), dim=3)


class Attention(nn.Module):
    """Every position asks all positions up to its own; how far apart they stand is seen by the turned dims alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"], by: Angles, past: KVCache | None = None) -> Float[Tensor, "B T D"]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return self.output(attend(turn(query, by), turn(key, by), value, past))


class Block(nn.Module):
    """Attention, then SwiGLU: each reads the normed stream and adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, bias=False)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim, bias=False)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)

    def forward(self, x: Float[Tensor, "B T D"], by: Angles, past: KVCache | None = None) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.attention_norm(x), by, past)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Model(CausalLM):
    """A narrow embedding widened to the model, the blocks, and the same way back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding)
        self.input_projection = nn.Linear(config.embedding, config.dim, bias=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.output_projection = nn.Linear(config.dim, config.embedding, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight

    def hidden_states(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        """[B T embedding]: already projected back to where the embedding reads it out."""
        start = state.layers[0].length if state else 0
        end = start + tokens.shape[1]
        require_room(end, self.config.context_length, "context")
        table = state.angles if state else angles(self.config, end, tokens.device)
        by = Angles(table.cos[start:end], table.sin[start:end])
        x = self.input_projection(self.embedding(tokens))
        for layer, block in enumerate(self.blocks):
            x = block(x, by, state.layers[layer] if state else None)
        return self.output_projection(self.norm(x))

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c, like = self.config, self.norm.weight.detach()
        require_room(capacity, c.context_length, "context")
        layers = [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) for _ in self.blocks]
        return State(layers, angles(c, capacity, like.device))

    def decoder(self, layout: LinearFactory) -> DecoderGraph:
        """The network laid out for telling; see nn_decoding_torch.py."""
        c = self.config
        turning = turns(*angles(c, c.context_length, self.norm.weight.device), pairs=c.dim // c.heads // 2)
        parts: list[Part] = []
        for block in self.blocks:
            before, between = LayerNorm(block.attention_norm), LayerNorm(block.feed_forward_norm)
            parts.append(AttentionOp(block.attention, before, layout, heads=c.heads, kv_heads=c.heads, turns=turning))
            parts.append(SwiGLUOp(block.feed_forward, between, layout))
        first = EmbeddingOp(self.embedding.weight, up_proj=LinearOp(layout, None, self.input_projection))
        narrow = LinearOp(layout, LayerNorm(self.norm), self.output_projection)
        return DecoderGraph(first, parts, [narrow, LinearOp(layout, None, self.head_weight)])
