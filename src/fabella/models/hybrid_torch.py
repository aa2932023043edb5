"""Hybrid in PyTorch; hybrid.py describes the architecture."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.hybrid import Config
from fabella.models.nn.attention_torch import CausalAttention, KVCache
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.recurrence_torch import MinGRU

State = list[Any]
"""Per layer: a KVCache, or the hidden state of a MinGRU ([B D]; None before the first token)."""


class Block(nn.Module):
    """A pre-norm mixer, MinGRU or attention, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: Config, kind: str) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim)
        self.mixer = MinGRU(config.dim, config.dim) if kind == "m" else CausalAttention(config.dim, config.heads)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Return the residual stream and the layer's new state."""
        normed = self.mixer_norm(x)
        if isinstance(self.mixer, MinGRU):
            mixed, state = self.mixer(normed, state, document_starts)
        else:
            mixed = self.mixer(normed, state, document_starts=document_starts)  # a KVCache is updated in place
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), state


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the tied embedding as head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.kinds)
        self.norm = RMSNorm(config.dim)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        if state is None:
            self._require_context(tokens.shape[1])
        layers = [None] * len(self.blocks) if state is None else state
        for layer in layers:  # checked before any layer is updated: a refused call leaves the state as it was
            if isinstance(layer, KVCache):
                layer.require_capacity(tokens.shape[1])
        x = self.dropout(self.embedding(tokens))
        for number, block in enumerate(self.blocks):
            x, layers[number] = block(x, layers[number], document_starts)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        self._require_context(capacity)
        c, like = self.config, self.norm.weight.detach()
        return [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) if k == "a" else None for k in c.kinds]

    def _require_context(self, tokens: int) -> None:
        if not self.config.unlimited_context:
            require_capacity(tokens, self.config.context_length, "context")
