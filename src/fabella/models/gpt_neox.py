"""GPT-NeoX: attention and MLP read the same input, and a rotary embedding rotates a part of each head.

    logits = W_head LN(x_L)
       ▲
     (+)◄───────────────┬─────────────────────────┐
      │                 │                         │  × layers
      │   down(GELU(up(LN₂(x))))   W_o softmax(Q'K'ᵀ/√E + mask) V
      │                 ▲                         ▲  Q', K' = W LN₁(x), the first ``rotary_fraction`` rotated
      └─────────────────┴─────────────────────────┘
    x_0 = embedding[token]

Black et al. 2022, "GPT-NeoX-20B" (arXiv 2204.06745, section 2.1); the Pythia models (Biderman et al. 2023, arXiv
2304.01373) are of this family. Differences from GPT-2: both parts of a block are computed from its input (parallel
residual, Wang & Komatsuzaki 2021); no learned positions; dimension i of the rotated part of a head is rotated with
i + half of this part; the head is a matrix of its own.
"""

from typing import Literal

from pydantic import Field, model_validator

from fabella.models.field_types import (
    Activation,
    Dim,
    Dropout,
    Epsilon,
    Heads,
    Hidden,
    InitStd,
    Layers,
    RotaryBase,
    TieEmbeddings,
    require_even,
    require_max_parameters,
    require_multiple,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["gpt_neox"] = "gpt_neox"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    heads: Heads
    ffn_dim: Hidden
    rotary_fraction: float = Field(default=0.25, gt=0.0, le=1.0, description="rotated share of each head")
    rotary_base: RotaryBase = 10_000.0
    activation: Activation = "gelu"
    norm_eps: Epsilon = 1e-5
    tie_embeddings: TieEmbeddings = False
    dropout: Dropout = 0.0
    init_std: InitStd = 0.02

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61, context_length=48, dim=24, layers=2, heads=3, ffn_dim=40, rotary_fraction=0.5, dropout=0.1
        )

    @property
    def rotary_dims(self) -> int:
        """Number of dimensions of each head that are rotated by position."""
        return int(self.dim // self.heads * self.rotary_fraction)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_even(
            "dim / heads * rotary_fraction", self.rotary_dims, "dims rotate in pairs; try rotary_fraction = 1.0"
        )
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocab_size, self.dim, init)
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block(init))
        table |= norm("norm", self.dim, bias=True)
        return table if self.tie_embeddings else table | embedding("head", self.vocab_size, self.dim, init)

    def _block(self, init: Normal) -> dict[str, ParameterSpec]:
        return {
            **norm("attention_norm", self.dim, bias=True),
            **linear("attention.query", self.dim, self.dim, init, bias=True),
            **linear("attention.key", self.dim, self.dim, init, bias=True),
            **linear("attention.value", self.dim, self.dim, init, bias=True),
            **linear("attention.output", self.dim, self.dim, init, bias=True),
            **norm("feed_forward_norm", self.dim, bias=True),
            **linear("feed_forward.up", self.ffn_dim, self.dim, init, bias=True),
            **linear("feed_forward.down", self.dim, self.ffn_dim, init, bias=True),
        }
