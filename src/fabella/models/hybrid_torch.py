"""Hybrid in PyTorch; what it is stands in hybrid.py."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.hybrid import Config
from fabella.models.nn.attention_torch import KVCache, attend, require_room, split_heads
from fabella.models.nn.graph_torch import (
    AttentionOp,
    DecoderGraph,
    EmbeddingOp,
    LinearOp,
    Part,
    RecurrenceOp,
    SwiGLUOp,
    root_mean_square,
)
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.packed_linear_torch import LinearFactory
from fabella.models.nn.recurrence_torch import MinGRU


class Attention(nn.Module):
    """Attention without positions, in the form of a mixer: it takes and gives back what it has read."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], past: KVCache | None = None
    ) -> tuple[Float[Tensor, "B T D"], KVCache | None]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return self.output(attend(query, key, value, past)), past


class Block(nn.Module):
    """A mixer of either kind, then SwiGLU: each reads the normed stream and adds to it."""

    def __init__(self, config: Config, kind: str) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim)
        self.mixer = MinGRU(config.dim, config.dim) if kind == "m" else Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)

    def forward(self, x: Float[Tensor, "B T D"], memory: Any = None) -> tuple[Float[Tensor, "B T D"], Any]:
        mixed, memory = self.mixer(self.mixer_norm(x), memory)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), memory


class Model(CausalLM):
    """The embedding, the blocks, a last norm, the embedding again."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.kinds)
        self.norm = RMSNorm(config.dim)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight

    def hidden_states(self, tokens: Int[Tensor, "B T"], state: list[Any] | None = None) -> Float[Tensor, "B T D"]:
        if state is None:
            self._require_room(tokens.shape[1])
        memory = [None] * len(self.blocks) if state is None else state
        for layer in memory:  # before any layer has read on: a state that is refused stays as it was
            if isinstance(layer, KVCache):
                layer.require_capacity(tokens.shape[1])
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x, memory[layer] = block(x, memory[layer])
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> list[Any]:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context of attention."""
        self._require_room(capacity)
        c, like = self.config, self.norm.weight.detach()
        return [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) if k == "a" else None for k in c.kinds]

    def _require_room(self, tokens: int) -> None:
        if not self.config.unlimited_context:
            require_room(tokens, self.config.context_length, "context")

    def decoder(self, layout: LinearFactory) -> DecoderGraph:
        """The network laid out for telling; see nn_decoding_torch.py."""
        heads, parts = self.config.heads, list[Part]()
        for block in self.blocks:
            before, between = root_mean_square(block.mixer_norm), root_mean_square(block.feed_forward_norm)
            if isinstance(block.mixer, MinGRU):
                parts.append(RecurrenceOp(block.mixer, before, layout))
            else:
                parts.append(AttentionOp(block.mixer, before, layout, heads=heads, kv_heads=heads))
            parts.append(SwiGLUOp(block.feed_forward, between, layout))
        last = LinearOp(layout, root_mean_square(self.norm), self.head_weight)
        return DecoderGraph(EmbeddingOp(self.embedding.weight), parts, [last])
