"""GPT-Neo in PyTorch; gpt_neo.py describes the architecture."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.gpt_neo import Config
from fabella.models.nn.attention_torch import AttentionSpec, KVCache, document_mask, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import GELUMLP, CausalLM

State = list[KVCache]


class Attention(nn.Module):
    """Causal attention to the last ``window`` tokens, without a scale."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim)

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(self.heads, self.heads, window=self.window, scale=1.0)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        query, key, value = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        if kv_cache is not None:
            key, value = kv_cache.append(key, value)
        new, seen = query.shape[2], key.shape[2]
        # Row i of the new positions is position seen − new + i: it sees itself and the window − 1 before it.
        visible = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        visible = visible.triu(seen - new - self.window + 1)
        if document_starts is not None:
            visible = visible & document_mask(document_starts)
        attn_out = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=1.0)
        return self.output(attn_out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm GELU MLP, each added to the residual stream."""

    def __init__(self, config: Config, window: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config.dim, config.heads, window)
        self.feed_forward_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.feed_forward = GELUMLP(config.dim, config.ffn_dim, approximate=approximate)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), kv_cache, document_starts))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Model(CausalLM):
    """Token and position embeddings, the blocks, a final norm, the output head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.context_length, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, window) for window in config.windows)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        start = state[0].length if state else 0
        end = start + tokens.shape[1]
        require_capacity(end, self.config.context_length, "context")
        x = self.dropout(self.embedding(tokens) + self.positions.weight[start:end])
        for layer, block in enumerate(self.blocks):
            x = block(x, state[layer] if state else None, document_starts)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        c = self.config
        require_capacity(capacity, c.context_length, "context")
        like = self.norm.weight.detach()
        return [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) for _ in self.blocks]
