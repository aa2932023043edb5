"""MinGRU in PyTorch; what it is stands in mingru.py."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.mingru import Config
from fabella.models.nn.graph_torch import (
    DecoderGraph,
    EmbeddingAddOp,
    EmbeddingOp,
    GELUOp,
    LinearOp,
    Part,
    RecurrenceOp,
    RootMeanSquare,
    root_mean_square,
)
from fabella.models.nn.layers_torch import RMSNorm, rms_norm
from fabella.models.nn.loss_torch import linear_cross_entropy, linear_losses
from fabella.models.nn.packed_linear_torch import LinearFactory
from fabella.models.nn.recurrence_torch import MinGRU

State = list[Float[Tensor, "B S"] | None]
"""Each layer's hidden state; None before the first token."""


class FeedForward(nn.Module):
    """down(GELU(up(x / rms(x)))), at each position by itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(functional.gelu(self.up(rms_norm(x, x.new_ones(x.shape[-1])))))


class Block(nn.Module):
    """Looks at the token again, remembers, thinks; its own head can say what comes next."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.mixer_norm = RMSNorm(config.dim)
        self.mixer = MinGRU(config.dim, config.state_dim)
        self.feed_forward = FeedForward(config)
        self.head_norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], tokens: Int[Tensor, "B T"], before: Float[Tensor, "B S"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """The stream with what this block adds to it, and the block's last hidden state."""
        x = x + self.embedding(tokens)
        mixed, last = self.mixer(self.mixer_norm(x), before)
        x = x + mixed
        return x + self.feed_forward(x), last


class Model(nn.Module):
    """The blocks, one after another. Training listens to every block's head, generation to the last one's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    @property
    def stack(self) -> list[Block]:
        """``blocks``, with their type."""
        return [cast(Block, block) for block in self.blocks]

    def hidden_states(self, tokens: Int[Tensor, "B T"], state: State | None = None) -> list[Float[Tensor, "B T D"]]:
        """The stream after each block, normed for its head; a ``state`` is read on from and brought up to date."""
        memory = state if state is not None else self.init_state(len(tokens), capacity=0)
        x = self.stack[0].head_norm.weight.new_zeros(*tokens.shape, self.config.dim)
        streams: list[Tensor] = []
        for layer, block in enumerate(self.stack):
            x, memory[layer] = block(x, tokens, memory[layer])
            streams.append(block.head_norm(x))
        return streams

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Next-token logits at every position."""
        return self.stack[-1].head(self.hidden_states(tokens)[-1])

    def loss(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean of all heads' losses in nats, each the mean over the targets that are not IGNORE."""
        heard = zip(self.hidden_states(tokens), self.stack, strict=True)
        return torch.stack([linear_cross_entropy(x, block.head.weight, targets) for x, block in heard]).mean()

    @torch.no_grad()
    def token_losses(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Each target's negative log-likelihood in nats under the last head; 0 where IGNORE."""
        return linear_losses(self.hidden_states(tokens)[-1], self.stack[-1].head.weight, targets)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """A state that has read nothing; it holds any number of texts of any length, so neither number matters."""
        return [None] * len(self.blocks)

    @torch.no_grad()
    def decode(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Float[Tensor, "B V"], State]:
        """The last position's logits after reading on; the state given is brought up to date, not copied."""
        return self.stack[-1].head(self.hidden_states(tokens, state)[-1][:, -1]), state

    def decoder(self, layout: LinearFactory) -> DecoderGraph:
        """The network laid out for telling; see nn_decoding_torch.py. Of the heads, the last."""
        first, parts = self.stack[0], list[Part]()
        for block in self.stack:
            if block is not first:
                parts.append(EmbeddingAddOp(block.embedding))
            parts.append(RecurrenceOp(block.mixer, root_mean_square(block.mixer_norm), layout))
            plain = RootMeanSquare(torch.ones_like(block.head_norm.weight), block.mixer_norm.eps)
            parts.append(GELUOp(block.feed_forward, plain, layout))
        last = LinearOp(layout, root_mean_square(self.stack[-1].head_norm), self.stack[-1].head)
        return DecoderGraph(EmbeddingOp(first.embedding.weight), parts, [last])
