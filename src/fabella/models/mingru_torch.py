"""MinGRU in PyTorch; mingru.py describes the architecture."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.mingru import Config
from fabella.models.nn.layers_torch import GELUMLP, RMSNorm, require_token_ids
from fabella.models.nn.loss_torch import linear_cross_entropy, linear_losses
from fabella.models.nn.recurrence_torch import MinGRU

State = list[Float[Tensor, "B S"] | None]
"""Hidden state of each layer; None before the first token."""


class Block(nn.Module):
    """Add the token's embedding, a pre-norm MinGRU and a pre-norm GELU MLP to the residual stream; has its own head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.mixer_norm = RMSNorm(config.dim)
        self.mixer = MinGRU(config.dim, config.state_dim)
        self.feed_forward_norm = RMSNorm(config.dim, scale=False)
        self.feed_forward = GELUMLP(config.dim, config.ffn_dim)
        self.head_norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        tokens: Int[Tensor, "B T"],
        state: Float[Tensor, "B S"] | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S"]]:
        """Return the residual stream and the block's last hidden state."""
        x = x + self.dropout(self.embedding(tokens))
        mixed, new_state = self.mixer(self.mixer_norm(x), state, document_starts)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), new_state


class Model(nn.Module):
    """A stack of blocks, each with an output head: training averages the losses of all heads, logits are the last's."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    @property
    def stack(self) -> list[Block]:
        """``blocks``, with their type."""
        return [cast(Block, block) for block in self.blocks]

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the output of every block, normed for its head; with ``state``, continue from it and update it."""
        layers = state if state is not None else self.init_state(len(tokens), capacity=0)
        x = self.stack[0].head_norm.weight.new_zeros(*tokens.shape, self.config.dim)
        outputs: list[Tensor] = []
        for number, block in enumerate(self.stack):
            x, layers[number] = block(x, tokens, layers[number], document_starts)
            outputs.append(block.head_norm(x))
        return outputs

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return next-token logits of the last head at every position.

        Raises UsageError for anything but a 2-D tensor of integers.
        """
        require_token_ids(tokens)
        return self.stack[-1].head(self.hidden_states(tokens)[-1])

    def loss(
        self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean of all heads' losses in nats, each the mean over the targets that are not IGNORE.

        ``document_starts``: position at which the document of each token starts; nothing before it has an influence.
        """
        heads = zip(self.hidden_states(tokens, document_starts=document_starts), self.stack, strict=True)
        return torch.stack([linear_cross_entropy(x, block.head.weight, targets) for x, block in heads]).mean()

    @torch.no_grad()
    def token_losses(
        self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-likelihood of each target in nats under the last head; 0 where IGNORE."""
        hidden = self.hidden_states(tokens, document_starts=document_starts)[-1]
        return linear_losses(hidden, self.stack[-1].head.weight, targets)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Return an empty state. It fits any batch size and any length, so both arguments are ignored."""
        return [None] * len(self.blocks)

    @torch.no_grad()
    def decode(self, tokens: Int[Tensor, "B T"], state: State) -> tuple[Float[Tensor, "B V"], State]:
        """Return the logits of the last position after T more tokens, and ``state``, which is updated in place."""
        return self.stack[-1].head(self.hidden_states(tokens, state)[-1][:, -1]), state
