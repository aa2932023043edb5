"""GPT-2 in PyTorch; what it is stands in gpt2.py."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.gpt2 import Config
from fabella.models.nn.attention_torch import KVCache, attend, require_room, split_heads
from fabella.models.nn.graph_torch import AttentionOp, DecoderGraph, EmbeddingOp, GELUOp, LayerNorm, LinearOp, Part
from fabella.models.nn.layers_torch import CausalLM
from fabella.models.nn.packed_linear_torch import LinearFactory

State = list[KVCache]


class Attention(nn.Module):
    """Every position asks all positions up to its own, in each head for something else."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def forward(self, x: Float[Tensor, "B T D"], past: KVCache | None = None) -> Float[Tensor, "B T D"]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return self.output(attend(query, key, value, past))


class FeedForward(nn.Module):
    """down(GELU(up x)), at each position by itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(functional.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention, then feed-forward: each reads the normed stream and adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T D"], past: KVCache | None = None) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), past))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Model(CausalLM):
    """Token and position embeddings, the blocks, a last norm, the head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.context_length, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight

    def hidden_states(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        start = state[0].length if state else 0
        end = start + tokens.shape[1]
        require_room(end, self.config.context_length, "context")
        x = self.dropout(self.embedding(tokens) + self.positions.weight[start:end])
        for layer, block in enumerate(self.blocks):
            x = block(x, state[layer] if state else None)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Memory for ``capacity`` tokens of ``batch_size`` sequences. Raises UsageError beyond the context."""
        c = self.config
        require_room(capacity, c.context_length, "context")
        like = self.norm.weight.detach()
        return [KVCache(batch_size, c.heads, capacity, c.dim // c.heads, like) for _ in self.blocks]

    def decoder(self, layout: LinearFactory) -> DecoderGraph:
        """The network laid out for telling; see nn_decoding_torch.py."""
        c, parts = self.config, list[Part]()
        approximate = "tanh" if c.activation == "gelu_tanh" else "none"
        for block in self.blocks:
            before, between = LayerNorm(block.attention_norm), LayerNorm(block.feed_forward_norm)
            parts.append(AttentionOp(block.attention, before, layout, heads=c.heads, kv_heads=c.heads))
            parts.append(GELUOp(block.feed_forward, between, layout, approximate=approximate))
        last = LinearOp(layout, LayerNorm(self.norm), self.head_weight)
        return DecoderGraph(EmbeddingOp(self.embedding.weight, self.positions.weight), parts, [last])
