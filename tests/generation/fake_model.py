"""Models that keep the contract without having learned anything, so that a test knows exactly what they say."""

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
    """Logits that depend on every token read and on their order, without any rounding: a table's row by their hash.

    The state is (hash, tokens read, capacity): reading more than the capacity of a bounded model is an error.
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
        hashed, read, capacity = state
        assert tokens.shape[1] >= 1
        for column in tokens.T:
            hashed = (hashed * 31 + column + 1) % 1_000_003
        read += tokens.shape[1]
        assert read <= capacity, f"{read} tokens were read into a state for {capacity}"
        self.longest = max(self.longest, read)
        return self.table[hashed % self.ROWS], (hashed, read, capacity)

    def forward(self, tokens: Tensor) -> Tensor:
        state = torch.zeros(len(tokens), dtype=torch.int64), 0, tokens.shape[1]
        found = []
        for place in range(tokens.shape[1]):
            now, state = self.decode(tokens[:, place : place + 1], state)
            found.append(now)
        return torch.stack(found, dim=1)

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        assert self.config.endless or tokens.shape[1] <= self.config.context_length
        log_probabilities = self(tokens).log_softmax(-1)
        found = -log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(targets >= 0, found, 0.0)


class Parrot(nn.Module):
    """Says the given ids after the prompt, one after another, whatever was read; then the last one for ever."""

    def __init__(self, config: Config, says: list[int], *, prompt: int) -> None:
        """``prompt``: tokens read before the first of ``says``."""
        super().__init__()
        self.config, self.says, self.prompt = config, says, prompt
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def init_state(self, batch_size: int, capacity: int) -> tuple[int, int]:
        return batch_size, 0

    def decode(self, tokens: Tensor, state: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        batch_size, read = state
        read += tokens.shape[1]
        logits = torch.zeros(batch_size, self.config.vocab_size)
        logits[:, self.says[min(read - self.prompt, len(self.says) - 1)]] = 1000.0
        return logits, (batch_size, read)
