"""Hybrid: recurrent and attention layers in one stack, by pattern. A whole family in one file.

    logits = embedding RMSNorm(x_L)
       ▲
     (+)◄── SwiGLU(RMSNorm(x))                            ┐
      │                                                   │  × layers, following ``pattern``
     (+)◄── m: MinGRU(RMSNorm(x))   a: attention          ┘
      ▲
    x_0 = embedding[token]

How it differs from GPT-2: most layers remember in a hidden state of fixed size (MinGRU, Feng et al. 2024, arXiv
2410.01201); a few look back at every token, which a fixed state cannot (De et al. 2024, arXiv 2402.19427, section 2).
Attention has no positions at all: the recurrent layers below it know the order (and a causal mask alone would tell it,
Kazemnejad et al. 2023, arXiv 2305.19466). RMSNorm, SwiGLU and a tied head as in Llama; no biases. There is no published
result of this stack; it is here to be tried, and to show that a family costs one file.
"""

from typing import Any, Literal

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from fabella.config import ModelConfig
from fabella.models.nn_attention_torch import KeyValues, attend, require_room, split_heads
from fabella.models.nn_recurrence_torch import MinGRU
from fabella.models.nn_torch import OneHead, RMSNorm, SwiGLU
from fabella.models.parameters import Normal, Parameter, embedding, linear, norm, within
from fabella.models.sizes import Dim, Heads, Hidden, Layers, Spread, require_buildable, require_multiple


class Config(ModelConfig):
    family: Literal["hybrid"] = "hybrid"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    pattern: str = Field(default="mma", pattern="^[ma]+$", max_length=512, description="repeated to fill the layers")
    heads: Heads
    hidden: Hidden
    init_std: Spread = 0.02

    @classmethod
    def smallest(cls) -> "Config":
        """Every feature at a size that the tests can afford."""
        return cls(vocabulary=61, context=48, dim=24, layers=3, pattern="ma", heads=3, hidden=40)

    @property
    def kinds(self) -> str:
        """One letter a layer: m for MinGRU, a for attention."""
        return (self.pattern * self.layers)[: self.layers]

    @property
    def unbounded(self) -> bool:
        return "a" not in self.kinds

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_buildable(self.parameters())
        return self

    def parameters(self) -> dict[str, Parameter]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocabulary, self.dim, init)
        for layer, kind in enumerate(self.kinds):
            table |= within(f"blocks.{layer}", self._block(kind, init))
        return table | norm("norm", self.dim)

    def _block(self, kind: str, init: Normal) -> dict[str, Parameter]:
        parts = ("gate", "candidate") if kind == "m" else ("query", "key", "value", "output")
        table = norm("mixer_norm", self.dim)
        for part in parts:
            table |= linear(f"mixer.{part}", self.dim, self.dim, init)
        table |= norm("feed_forward_norm", self.dim)
        for part in ("gate", "up"):
            table |= linear(f"feed_forward.{part}", self.hidden, self.dim, init)
        return table | linear("feed_forward.down", self.dim, self.hidden, init)


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
        self, x: Float[Tensor, "B T D"], past: KeyValues | None = None
    ) -> tuple[Float[Tensor, "B T D"], KeyValues | None]:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return self.output(attend(query, key, value, past)), past


class Block(nn.Module):
    """A mixer of either kind, then SwiGLU: each reads the normed stream and adds to it."""

    def __init__(self, config: Config, kind: str) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.dim)
        self.mixer = MinGRU(config.dim, config.dim) if kind == "m" else Attention(config)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = SwiGLU(config.dim, config.hidden)

    def forward(self, x: Float[Tensor, "B T D"], memory: Any = None) -> tuple[Float[Tensor, "B T D"], Any]:
        mixed, memory = self.mixer(self.mixer_norm(x), memory)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), memory


class Model(OneHead):
    """The embedding, the blocks, a last norm, the embedding again."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.kinds)
        self.norm = RMSNorm(config.dim)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight

    def read(self, tokens: Int[Tensor, "B T"], state: list[Any] | None = None) -> Float[Tensor, "B T D"]:
        if state is None:
            self._require_room(tokens.shape[1])
        memory = [None] * len(self.blocks) if state is None else state
        for layer in memory:  # before any layer has read on: a state that is refused stays as it was
            if isinstance(layer, KeyValues):
                layer.require_room(tokens.shape[1])
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x, memory[layer] = block(x, memory[layer])
        return self.norm(x)

    def start(self, batch: int, capacity: int) -> list[Any]:
        """Memory for ``capacity`` tokens of ``batch`` texts. Raises UsageError beyond the context of attention."""
        self._require_room(capacity)
        c, like = self.config, self.norm.weight.detach()
        return [KeyValues(batch, c.heads, capacity, c.dim // c.heads, like) if k == "a" else None for k in c.kinds]

    def _require_room(self, tokens: int) -> None:
        if not self.config.unbounded:
            require_room(tokens, self.config.context, "context")
