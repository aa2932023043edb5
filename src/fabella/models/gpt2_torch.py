"""GPT-2 in PyTorch; gpt2.py describes the architecture."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.gpt2 import Config
from fabella.models.nn.attention_torch import CausalAttention, KVCache
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.layers_torch import GELUMLP, CausalLM

State = list[KVCache]


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm GELU MLP, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = CausalAttention(config.dim, config.heads, bias=True)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.feed_forward = GELUMLP(config.dim, config.ffn_dim, approximate=approximate)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        kv_cache: KVCache | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), kv_cache, document_starts=document_starts))
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
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
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
