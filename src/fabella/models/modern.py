"""Modern: a Llama with what small models have learned since, and MinGRU layers where ``layer_pattern`` has an m.

    logits = W_head RMSNorm(x_L)                                W_head is the embedding if ``tie_embeddings``
       ▲
     (+)◄── SwiGLU(RMSNorm(x))                               ┐
      │                                                      │
     (+)◄── mixer(u + conv(u)),  u = RMSNorm(x)              │  × layers
      │                                                      │
      x ← λ·x + μ·x_0                                        ┘
      ▲
    x_0 = RMSNorm(embedding[token])

- conv: causal, per channel, over the last ``convolution`` tokens (Gated DeltaNet, arXiv 2412.06464, table S.1); off by
  default.
- mixer a: grouped-query attention with rotary embedding. Queries and keys are normed (QK norm, Dehghani et al. 2023,
  arXiv 2302.05442); values are mixed with those of the first attention layer (value residual, Zhou et al. 2024, arXiv
  2410.17897); the output of each head has a gate 2·σ(w·u) (Qiu et al. 2025, arXiv 2505.06708).
- mixer m: MinGRU (Feng et al. 2024, arXiv 2410.01201) with an output gate, W_out(RMSNorm(h) · silu(W_g u)). The bias of
  its forget gate starts with half-lives between 2 and 512 tokens (Tallec & Ollivier 2018, arXiv 1804.11188).
- λ starts at 1 and μ at 0.1 (modded-nanogpt, nanochat). The last matrix of each mixer and MLP starts at 0, so that
  every block starts as the identity.

A part that is not in ``features`` is left out, so that its gain can be measured; docs/log.md has the figures. No
results of this stack are published. Every other matrix is initialized from N(0, ``init_std``).
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from fabella.models.field_types import (
    Dim,
    Dropout,
    Heads,
    Hidden,
    InitStd,
    KVHeads,
    Layers,
    TieEmbeddings,
    require_even,
    require_max_parameters,
    require_multiple,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import (
    Constant,
    HalfLives,
    Normal,
    ParameterSpec,
    embedding,
    linear,
    norm,
    prefixed,
    vector,
)

Feature = Literal["qk_norm", "attention_gate", "value_residual", "embedding_residual", "zero_init_outputs"]


ROTARY_BASE, NORM_EPS = 10_000.0, 1e-5


class Config(ModelConfig):
    family: Literal["modern"] = "modern"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    layer_pattern: str = Field(
        default="a",
        pattern="^[ma]+$",
        max_length=512,
        description="m (MinGRU) and a (attention), repeated to fill the layers",
    )
    heads: Heads
    kv_heads: KVHeads
    ffn_dim: Hidden
    features: Annotated[tuple[Feature, ...], Field(strict=False)] = Field(
        default=get_args(Feature),
        description="parts of the network, all by default: qk_norm, attention_gate, value_residual, "
        "embedding_residual, zero_init_outputs",
    )
    convolution: int = Field(
        default=0, ge=0, le=64, description="tokens of the causal convolution before each mixer; 0 or 1 disables it"
    )
    state_expansion: float = Field(
        default=1.0, gt=0.0, le=8.0, description="size of the MinGRU's hidden state, as a multiple of dim"
    )
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
            layer_pattern="ama",
            heads=6,
            kv_heads=2,
            ffn_dim=40,
            state_expansion=1.5,
            features=tuple(feature for feature in get_args(Feature) if feature != "zero_init_outputs"),
            convolution=4,
            tie_embeddings=False,
            dropout=0.1,
            init_std=0.1,
        )

    @property
    def kinds(self) -> str:
        """One letter per layer: m for MinGRU, a for attention."""
        return (self.layer_pattern * self.layers)[: self.layers]

    @property
    def unlimited_context(self) -> bool:
        return "a" not in self.kinds

    @property
    def state_dim(self) -> int:
        """Size of the hidden state of each MinGRU."""
        return round(self.dim * self.state_expansion)

    @property
    def past_inputs(self) -> int:
        """Inputs before a token that its convolution reads."""
        return max(self.convolution - 1, 0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_multiple("heads", self.heads, "kv_heads", self.kv_heads)
        require_even("dim / heads", self.dim // self.heads, "dims rotate in pairs; try fewer heads")
        if self.state_dim < 1:
            raise ValueError(f"dim * state_expansion = {self.dim * self.state_expansion:g} is below 1")
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        table = embedding("embedding", self.vocab_size, self.dim, init)
        for layer, kind in enumerate(self.kinds):
            table |= prefixed(f"blocks.{layer}", self._block(kind, has_first_value="a" in self.kinds[:layer]))
        table |= norm("norm", self.dim)
        return table if self.tie_embeddings else table | embedding("head", self.vocab_size, self.dim, init)

    def _block(self, kind: str, *, has_first_value: bool) -> dict[str, ParameterSpec]:
        init = Normal(self.init_std)
        output_init = Constant(0.0) if "zero_init_outputs" in self.features else init
        rows: dict[str, ParameterSpec] = {}
        if "embedding_residual" in self.features:
            rows |= vector("residual_weight", 1, Constant(1.0)) | vector("embedding_weight", 1, Constant(0.1))
        rows |= norm("mixer_norm", self.dim)
        if self.past_inputs:
            rows["convolution.weight"] = ParameterSpec(shape=(self.dim, 1, self.convolution), init=init, decay=False)
        mixer = self._attention(output_init, has_first_value) if kind == "a" else self._mingru(output_init)
        rows |= prefixed("mixer", mixer) | norm("feed_forward_norm", self.dim)
        for name in ("gate", "up"):
            rows |= linear(f"feed_forward.{name}", self.ffn_dim, self.dim, init)
        return rows | linear("feed_forward.down", self.dim, self.ffn_dim, output_init)

    def _attention(self, output_init: Normal | Constant, has_first_value: bool) -> dict[str, ParameterSpec]:
        init, kv_dim = Normal(self.init_std), self.dim // self.heads * self.kv_heads
        return {
            **(
                vector("value_weights", 2, Constant(0.5))
                if "value_residual" in self.features and has_first_value
                else {}
            ),
            **linear("query", self.dim, self.dim, init),
            **linear("key", kv_dim, self.dim, init),
            **linear("value", kv_dim, self.dim, init),
            **(linear("output_gate", self.heads, self.dim, init) if "attention_gate" in self.features else {}),
            **linear("output", self.dim, self.dim, output_init),
        }

    def _mingru(self, output_init: Normal | Constant) -> dict[str, ParameterSpec]:
        init, state = Normal(self.init_std), self.state_dim
        return {
            **linear("gate", state, self.dim, init),
            **vector("gate.bias", state, HalfLives(2.0, 512.0)),
            **linear("candidate", state, self.dim, init),
            **linear("output", self.dim, state, output_init),
            **norm("output_norm", state),
            **linear("output_gate", state, self.dim, init),
        }
