"""Untrained models with the model contract and a known output, for tests of generation."""

import torch
from torch import Tensor, nn

from fabella.models.model_config import ModelConfig
from fabella.models.parameters import ParameterSpec


class Config(ModelConfig):
    family: str = "stand-in"
    vocab_size: int = 32
    context_length: int = 16
    endless: bool = False

    @property
    def unlimited_context(self) -> bool:
        return self.endless

    def parameters(self) -> dict[str, ParameterSpec]:
        return {}


class Hashing(nn.Module):
    """Model whose logits are a table row, selected by a hash of all tokens and their order; there is no rounding.

    The state is (hash, number of tokens, capacity). More tokens than the capacity are an error. ``longest`` is the
    largest number of tokens in any state.
    """

    ROWS = 509

    def __init__(self, config: Config, *, spread: float = 2.0, end: int | None = None, end_logit: float = 0.0) -> None:
        super().__init__()
        self.config = config
        table = torch.randn(self.ROWS, config.vocab_size, generator=torch.Generator().manual_seed(7)) * spread
        if end is not None:
            table[:, end] = end_logit
        self.table = nn.Parameter(table, requires_grad=False)
        self.longest = 0

    def init_state(self, batch_size: int, capacity: int) -> tuple[Tensor, int, int]:
        assert self.config.endless or capacity <= self.config.context_length
        return torch.zeros(batch_size, dtype=torch.int64), 0, capacity

    def decode(self, tokens: Tensor, state: tuple[Tensor, int, int]) -> tuple[Tensor, tuple[Tensor, int, int]]:
        hashed, length, capacity = state
        assert tokens.shape[1] >= 1
        for column in tokens.T:
            hashed = (hashed * 31 + column + 1) % 1_000_003
        length += tokens.shape[1]
        assert length <= capacity, f"{length} tokens in a state with a capacity of {capacity}"
        self.longest = max(self.longest, length)
        return self.table[hashed % self.ROWS], (hashed, length, capacity)

    def forward(self, tokens: Tensor) -> Tensor:
        state = torch.zeros(len(tokens), dtype=torch.int64), 0, tokens.shape[1]
        logits = []
        for position in range(tokens.shape[1]):
            last_logits, state = self.decode(tokens[:, position : position + 1], state)
            logits.append(last_logits)
        return torch.stack(logits, dim=1)

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        assert self.config.endless or tokens.shape[1] <= self.config.context_length
        log_probabilities = self(tokens).log_softmax(-1)
        losses = -log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(targets >= 0, losses, 0.0)


class Parrot(nn.Module):
    """Model that generates fixed ids after any prompt, and then repeats the last one."""

    def __init__(self, config: Config, output: list[int], *, prompt: int) -> None:
        """Generate ``output`` after ``prompt`` tokens."""
        super().__init__()
        self.config, self.output, self.prompt = config, output, prompt
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def init_state(self, batch_size: int, capacity: int) -> tuple[int, int]:
        return batch_size, 0

    def decode(self, tokens: Tensor, state: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        batch_size, length = state
        length += tokens.shape[1]
        logits = torch.zeros(batch_size, self.config.vocab_size)
        logits[:, self.output[min(length - self.prompt, len(self.output) - 1)]] = 1000.0
        return logits, (batch_size, length)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = [
            self.decode(tokens[:, :1], (len(tokens), max(position, self.prompt - 1)))
            for position in range(tokens.shape[1])
        ]
        return torch.stack([logits for logits, _ in steps], dim=1)
