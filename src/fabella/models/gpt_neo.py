"""GPT-Neo: GPT-2 with attention to the last tokens only in some layers, and without the scale 1/√E.

    logits = W_head LN(x_L)
       ▲
     (+)◄── down(GELU(up(LN(x))))                ┐
      │                                          │  × layers, by ``layer_pattern``
     (+)◄── W_o softmax(QKᵀ + mask) V + b_o      ┘  g: all tokens so far   l: the last ``window`` ones
      ▲
    x_0 = embedding[token] + positions[t]

Black et al. 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow" (Zenodo 5297715). The
published TinyStories models (Eldan & Li 2023, arXiv 2305.07759) are of this family.

Differences from GPT-2: queries are not divided by √E; query, key and value have no bias; in every second layer, as
published, a token sees itself and the ``window`` − 1 tokens before it.
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
    TieEmbeddings,
    require_max_parameters,
    require_multiple,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["gpt_neo"] = "gpt_neo"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    heads: Heads
    ffn_dim: Hidden
    layer_pattern: str = Field(
        default="gl",
        pattern="^[gl]+$",
        max_length=512,
        description="g (all tokens) and l (the last ones), repeated to fill the layers",
    )
    window: int = Field(default=256, ge=1, le=2**20, description="tokens that a layer l sees, itself included")
    activation: Activation = "gelu_tanh"
    norm_eps: Epsilon = 1e-5
    tie_embeddings: TieEmbeddings = True
    dropout: Dropout = 0.0
    init_std: InitStd = 0.02

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61,
            context_length=48,
            dim=24,
            layers=3,
            heads=3,
            ffn_dim=40,
            window=5,
            tie_embeddings=False,
            dropout=0.1,
        )

    @property
    def windows(self) -> list[int]:
        """Tokens that each layer sees."""
        kinds = (self.layer_pattern * self.layers)[: self.layers]
        return [self.window if kind == "l" else self.context_length for kind in kinds]

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocab_size, self.dim, init)
        table |= embedding("positions", self.context_length, self.dim, init)
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block(init))
        table |= norm("norm", self.dim, bias=True)
        return table if self.tie_embeddings else table | embedding("head", self.vocab_size, self.dim, init)

    def _block(self, init: Normal) -> dict[str, ParameterSpec]:
        return {
            **norm("attention_norm", self.dim, bias=True),
            **linear("attention.query", self.dim, self.dim, init),
            **linear("attention.key", self.dim, self.dim, init),
            **linear("attention.value", self.dim, self.dim, init),
            **linear("attention.output", self.dim, self.dim, init, bias=True),
            **norm("feed_forward_norm", self.dim, bias=True),
            **linear("feed_forward.up", self.ffn_dim, self.dim, init, bias=True),
            **linear("feed_forward.down", self.dim, self.ffn_dim, init, bias=True),
        }
