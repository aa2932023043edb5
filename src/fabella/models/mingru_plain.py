"""Plain MinGRU: Llama's residual blocks with a MinGRU in place of attention; one embedding and one output head.

    logits = W_head RMSNorm(x_L)                           W_head is the embedding if ``tie_embeddings``
       ▲
     (+)◄── W_down(silu(W_gate y) · W_up y)         ┐  y = RMSNorm(x)
      │                                             │  × layers
     (+)◄── W_out h_t,                              │  z = σ(W_z y), h̃ = g(W_h y)
      ▲     h_t = (1−z_t)·h_{t−1} + z_t·h̃_t         ┘  W_out only if expansion ≠ 1
    x_0 = embedding[token]

Feng et al. 2024, "Were RNNs All We Needed?" (arXiv 2410.01201), section 3.1: gate and candidate of a GRU depend on the
input only, not on the hidden state, so that one scan computes all steps of h. g(x) = x + 0.5 for x ≥ 0 and σ(x) below
keeps h̃ positive (appendix B). h starts at 0.

Differences from Llama: the MinGRU, a hidden state of fixed size, takes the place of rotary attention and its KV cache;
everything else is equal, so that a comparison of the two measures the layer. Differences from ``mingru``, which follows
a reference system: no embedding and no output head per layer, so that most parameters are in the blocks at any
vocabulary size. The paper's language model also has a convolution of four tokens before each MinGRU; it is left out.

Every matrix is initialized from N(0, ``init_std``). Dropout, off by default, applies to the embedding and the outputs
of MinGRU and MLP.
"""

from typing import Literal

from pydantic import Field, model_validator

from fabella.models.field_types import (
    Dim,
    Dropout,
    Epsilon,
    Hidden,
    InitStd,
    Layers,
    TieEmbeddings,
    require_max_parameters,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["mingru_plain"] = "mingru_plain"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    expansion: float = Field(default=1.0, gt=0.0, le=8.0, description="size of the hidden state, as a multiple of dim")
    ffn_dim: Hidden
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
            layers=2,
            expansion=1.5,
            ffn_dim=40,
            tie_embeddings=False,
            dropout=0.1,
        )

    @property
    def unlimited_context(self) -> bool:
        return True

    @property
    def state_dim(self) -> int:
        """Size of the hidden state of each layer; if it is not ``dim``, an output projection maps it to ``dim``."""
        return round(self.dim * self.expansion)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        if self.state_dim < 1 or abs(self.state_dim - self.dim * self.expansion) > 1e-6:
            size = self.dim * self.expansion
            raise ValueError(f"dim * expansion = {size:g} is not a whole number; try expansion = 1.0")
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocab_size, self.dim, init)
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block(init))
        table |= norm("norm", self.dim)
        return table if self.tie_embeddings else table | embedding("head", self.vocab_size, self.dim, init)

    def _block(self, init: Normal) -> dict[str, ParameterSpec]:
        dim, state = self.dim, self.state_dim
        return {
            **norm("mixer_norm", dim),
            **linear("mixer.gate", state, dim, init),
            **linear("mixer.candidate", state, dim, init),
            **(linear("mixer.output", dim, state, init) if state != dim else {}),
            **norm("feed_forward_norm", dim),
            **linear("feed_forward.gate", self.ffn_dim, dim, init),
            **linear("feed_forward.up", self.ffn_dim, dim, init),
            **linear("feed_forward.down", dim, self.ffn_dim, init),
        }
