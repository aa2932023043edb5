"""Llama: RMSNorm, rotary embedding, SwiGLU, grouped-query attention, no biases.

    logits = W_head RMSNorm(x_L)                       W_head is the embedding if ``tie_embeddings``
       ▲
     (+)◄── W_down(silu(W_gate y) · W_up y)     ┐  y = RMSNorm(x)
      │                                         │  × layers
     (+)◄── softmax(Q'K'ᵀ/√E + mask) V          ┘  Q', K' = Q, K rotated by position;
      ▲                                            each KV head serves heads/kv_heads queries
    x_0 = embedding[token]

Differences from GPT-2 (Touvron et al. 2023, arXiv 2302.13971, section 2.2): no biases; RMSNorm (Zhang & Sennrich 2019,
arXiv 1910.07467, eq. 4) instead of LayerNorm; rotary embedding (Su et al. 2021, arXiv 2104.09864) instead of learned
positions, with dimension i of a head rotated with i + E/2, the pairing of Hugging Face's Llama weights; SwiGLU (Shazeer
2020, arXiv 2002.05202, eq. 6) instead of GELU; fewer KV heads than query heads (Ainslie et al. 2023, arXiv 2305.13245).

Every matrix is initialized from N(0, ``init_std``). Dropout, off by default, applies to the outputs of attention and
MLP.

| preset   | parameters | in the blocks | published                                  |
|----------|------------|---------------|--------------------------------------------|
| piny-37m | 37,362,432 | 24,779,520    | validation loss 1.2891 after about 6 epochs |
"""

from typing import Literal

from pydantic import model_validator

from fabella.models.field_types import (
    Dim,
    Dropout,
    Epsilon,
    Heads,
    Hidden,
    InitStd,
    KVHeads,
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
    family: Literal["llama"] = "llama"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    heads: Heads
    kv_heads: KVHeads
    ffn_dim: Hidden
    rotary_base: RotaryBase = 10_000.0
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
            heads=6,
            kv_heads=2,
            ffn_dim=40,
            tie_embeddings=False,
            dropout=0.1,
        )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("dim", self.dim, "heads", self.heads)
        require_multiple("heads", self.heads, "kv_heads", self.kv_heads)
        require_even("dim / heads", self.dim // self.heads, "dims rotate in pairs; try fewer heads")
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
        kv_dim = self.dim // self.heads * self.kv_heads
        return {
            **norm("attention_norm", self.dim),
            **linear("attention.query", self.dim, self.dim, init),
            **linear("attention.key", kv_dim, self.dim, init),
            **linear("attention.value", kv_dim, self.dim, init),
            **linear("attention.output", self.dim, self.dim, init),
            **norm("feed_forward_norm", self.dim),
            **linear("feed_forward.gate", self.ffn_dim, self.dim, init),
            **linear("feed_forward.up", self.ffn_dim, self.dim, init),
            **linear("feed_forward.down", self.dim, self.ffn_dim, init),
        }
