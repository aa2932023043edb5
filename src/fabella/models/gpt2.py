"""GPT-2: the baseline decoder; the descriptions of the other families say how they differ from it.

    logits = W_head LN(x_L)                            one logit per id of the vocabulary
       ▲
     (+)◄── down(GELU(up(LN(x))))      ┐
      │                                │  × layers
     (+)◄── softmax(QKᵀ/√E + mask) V   ┘  Q, K, V = W LN(x)
      ▲
    x_0 = embedding[token] + positions[t]

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: the transformer
decoder of Vaswani et al. 2017 (arXiv 1706.03762) with LayerNorm before attention, MLP and head, learned positions, and
GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415) in the MLP.

Differences from OpenAI's GPT-2: sizes, tying and the form of GELU are config fields. The matrices that write into the
residual stream are initialized like all others, from N(0, ``init_std``), not 1/√(2·layers) smaller, as in the published
models below. Dropout applies to the embeddings and to the outputs of attention and MLP, not to the attention weights,
because no fused attention kernel on a CPU supports that.

| preset          | parameters | in the blocks | published                              |
|-----------------|------------|---------------|----------------------------------------|
| gpt2-92m        | 91,605,384 | 22,503,600    | –                                      |
| tinystories-1m  |  3,747,520 |    400,000    | –                                      |
| tinystories-8m  | 19,708,672 |  6,318,592    | validation loss about 1.62, 3 epochs   |
| tinystories-28m | 52,000,256 | 25,220,096    | validation loss about 1.32, 2 epochs   |
"""

from typing import Literal

from pydantic import model_validator

from fabella.models.field_types import (
    Activation,
    Dim,
    Dropout,
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
    family: Literal["gpt2"] = "gpt2"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    heads: Heads
    ffn_dim: Hidden
    activation: Activation = "gelu"
    tie_embeddings: TieEmbeddings = True
    dropout: Dropout = 0.0
    init_std: InitStd = 0.02

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61, context_length=48, dim=24, layers=2, heads=3, ffn_dim=40, tie_embeddings=False, dropout=0.1
        )

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
            **linear("attention.query", self.dim, self.dim, init, bias=True),
            **linear("attention.key", self.dim, self.dim, init, bias=True),
            **linear("attention.value", self.dim, self.dim, init, bias=True),
            **linear("attention.output", self.dim, self.dim, init, bias=True),
            **norm("feed_forward_norm", self.dim, bias=True),
            **linear("feed_forward.up", self.ffn_dim, self.dim, init, bias=True),
            **linear("feed_forward.down", self.dim, self.ffn_dim, init, bias=True),
        }
