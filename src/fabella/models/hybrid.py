"""Hybrid: recurrent and attention layers in one stack, by ``layer_pattern``.

    logits = embedding RMSNorm(x_L)
       ▲
     (+)◄── SwiGLU(RMSNorm(x))                            ┐
      │                                                   │  × layers, by ``layer_pattern``
     (+)◄── m: MinGRU(RMSNorm(x))   a: attention          ┘
      ▲
    x_0 = embedding[token]

Differences from GPT-2: most layers have a hidden state of fixed size (MinGRU, Feng et al. 2024, arXiv 2410.01201); a
few attend to every token, which a fixed state cannot replace (De et al. 2024, arXiv 2402.19427, section 2). Attention
has no position encoding: the recurrent layers below it encode the order, and even a causal mask alone would suffice
(Kazemnejad et al. 2023, arXiv 2305.19466). RMSNorm, SwiGLU and a tied head as in Llama; no biases. No results of this
stack are published. With alternating layers ("ma"), a small model learns to reuse the names in a text from far fewer
examples than Llama; it is the model of the quickstart (docs/log.md has the figures). Dropout, off by default, applies
to the embedding and to the outputs of mixer and MLP.
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
    require_max_parameters,
    require_multiple,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["hybrid"] = "hybrid"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    layer_pattern: str = Field(
        default="mma",
        pattern="^[ma]+$",
        max_length=512,
        description="m (MinGRU) and a (attention), repeated to fill the layers",
    )
    heads: Heads
    ffn_dim: Hidden
    dropout: Dropout = 0.0
    init_std: InitStd = 0.02

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61, context_length=48, dim=24, layers=3, layer_pattern="ma", heads=3, ffn_dim=40, dropout=0.1
        )

    @property
    def kinds(self) -> str:
        """One letter per layer: m for MinGRU, a for attention."""
        return (self.layer_pattern * self.layers)[: self.layers]

    @property
    def unlimited_context(self) -> bool:
        return "a" not in self.kinds

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocab_size, self.dim, init)
        for layer, kind in enumerate(self.kinds):
            table |= prefixed(f"blocks.{layer}", self._block(kind, init))
        return table | norm("norm", self.dim)

    def _block(self, kind: str, init: Normal) -> dict[str, ParameterSpec]:
        parts = ("gate", "candidate") if kind == "m" else ("query", "key", "value", "output")
        table = norm("mixer_norm", self.dim)
        for part in parts:
            table |= linear(f"mixer.{part}", self.dim, self.dim, init)
        table |= norm("feed_forward_norm", self.dim)
        for part in ("gate", "up"):
            table |= linear(f"feed_forward.{part}", self.ffn_dim, self.dim, init)
        return table | linear("feed_forward.down", self.dim, self.ffn_dim, init)
