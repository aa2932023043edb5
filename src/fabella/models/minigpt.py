"""MiniGPT: a decoder to train on one GPU in one day.

    logits = embedding @ W_out LN(x_L)                 the embedding is also the head
       ▲
     (+)◄── W_down(silu(W_gate y) · W_up y)     ┐  y = LN(x)
      │                                         │  × layers
     (+)◄── softmax(Q'K'ᵀ/√E + mask) V          ┘  Q', K' = Q, K half of each head rotated by position
      ▲
    x_0 = W_in embedding[token]                        384 → 768

Differences from GPT-2: no biases, LayerNorm without offset; instead of learned positions, a rotary embedding of the
first ``rotary_fraction`` of each head, which rotates pairs of neighboring dimensions (Su et al. 2021, arXiv 2104.09864,
eq. 34); SwiGLU instead of GELU (Shazeer 2020, arXiv 2002.05202, eq. 6); an embedding narrower than the model, projected
up and down (Lan et al. 2020, arXiv 1909.11942, section 3.1). The design follows Geiping & Goldstein 2022 (arXiv
2212.14034) and Touvron et al. 2023 (arXiv 2302.13971).

Initialization: N(0, 1/fan-in), smaller for the embedding and the output matrices of attention, MLP and model:
N(0, ``init_scale``/fan-in). The fan-in of the embedding is its width, because it is also the head. The normal
distribution is not truncated. Dropout, off by default, applies to the projected embedding and to the outputs of
attention and MLP.

| preset       | parameters  | in the blocks | published                                              |
|--------------|-------------|---------------|--------------------------------------------------------|
| minigpt-100m | 105,204,480 | 92,621,568    | loss 2.996 on C4 + books + wiki + news, 26 h on 1 A100 |
"""

from typing import Literal

from pydantic import Field, model_validator

from fabella.models.field_types import (
    Dim,
    Dropout,
    Heads,
    Hidden,
    InitStd,
    Layers,
    RotaryBase,
    require_even,
    require_max_parameters,
    require_multiple,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["minigpt"] = "minigpt"  # pyright: ignore[reportIncompatibleVariableOverride]
    embedding: Dim = Field(description="width of the embedding, projected to dim and back")
    dim: Dim
    layers: Layers
    heads: Heads
    ffn_dim: Hidden
    rotary_fraction: float = Field(default=0.5, gt=0.0, le=1.0, description="rotated share of each head")
    rotary_base: RotaryBase = 10_000.0
    dropout: Dropout = 0.0
    init_scale: InitStd = Field(default=0.01, description="variance of a matrix times its inputs, above 0 to 10")

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61,
            context_length=48,
            embedding=16,
            dim=24,
            layers=2,
            heads=2,
            ffn_dim=40,
            rotary_fraction=1 / 3,
            dropout=0.1,
        )

    @property
    def rotary_dims(self) -> int:
        """Number of dimensions of each head that are rotated by position."""
        return round(self.dim // self.heads * self.rotary_fraction)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        rotated = round(self.dim // self.heads * self.rotary_fraction, 6)
        require_even("dim / heads * rotary_fraction", rotated, "dims rotate in pairs; try rotary_fraction = 1.0")
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        table = embedding("embedding", self.vocab_size, self.embedding, self._small(self.embedding))
        table |= linear("input_projection", self.dim, self.embedding, _unit(self.embedding))
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block())
        table |= norm("norm", self.dim)
        return table | linear("output_projection", self.embedding, self.dim, self._small(self.dim))

    def _block(self) -> dict[str, ParameterSpec]:
        return {
            **norm("attention_norm", self.dim),
            **linear("attention.query", self.dim, self.dim, _unit(self.dim)),
            **linear("attention.key", self.dim, self.dim, _unit(self.dim)),
            **linear("attention.value", self.dim, self.dim, _unit(self.dim)),
            **linear("attention.output", self.dim, self.dim, self._small(self.dim)),
            **norm("feed_forward_norm", self.dim),
            **linear("feed_forward.gate", self.ffn_dim, self.dim, _unit(self.dim)),
            **linear("feed_forward.up", self.ffn_dim, self.dim, _unit(self.dim)),
            **linear("feed_forward.down", self.dim, self.ffn_dim, self._small(self.ffn_dim)),
        }

    def _small(self, fan_in: int) -> Normal:
        return Normal((self.init_scale / fan_in) ** 0.5)


def _unit(fan_in: int) -> Normal:
    """Return the initialization that preserves the variance: LeCun et al. 1998, "Efficient BackProp", eq. 16."""
    return Normal(fan_in**-0.5)
