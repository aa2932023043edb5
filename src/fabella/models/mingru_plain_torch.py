"""Plain MinGRU in PyTorch; mingru_plain.py describes the architecture."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.mingru_plain import Config
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU
from fabella.models.nn.recurrence_torch import MinGRU

State = list[Float[Tensor, "B S"] | None]
"""Hidden state of each layer; None before the first token."""


class Block(nn.Module):
    """Pre-norm MinGRU, then pre-norm SwiGLU, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = MinGRU(config.dim, config.state_dim)
        self.feed_forward_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Float[Tensor, "B S"] | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Return the residual stream and the block's last hidden state."""
        mixed, new_state = self.mixer(self.mixer_norm(x), state, document_starts)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), new_state


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

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        layers = state if state is not None else self.init_state(len(tokens), capacity=0)
        x = self.dropout(self.embedding(tokens))
        for number, block in enumerate(self.blocks):
            x, layers[number] = block(x, layers[number], document_starts)
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Return an empty state. It fits any batch size and any length, so both arguments are ignored."""
        return [None] * len(self.blocks)
