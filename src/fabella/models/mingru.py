"""MinGRU: a recurrent network that trains in parallel, with an output head on every layer.

    loss = mean of all layers' cross-entropies         logits = those of the last layer
       ▲
    head_l: W RMSNorm(x) ◄─┐                    ┐
      ┌────────────────────┤                    │
     (+)◄── down(GELU(up(x/rms(x))))            │  × layers
      │                                         │
     (+)◄── h_t = (1−z_t)·h_{t−1} + z_t·h̃_t     │  z = σ(W_z y), h̃ = g(W_h y), y = RMSNorm(x)
      │                                         │
     (+)◄── embedding_l[token]                  ┘
      ▲
    x_0 = 0

Feng et al. 2024, "Were RNNs All We Needed?" (arXiv 2410.01201), section 3.1: gate and candidate of a GRU depend on the
input only, not on the hidden state, so that one scan computes all steps of h. g(x) = x + 0.5 for x ≥ 0 and σ(x) below
keeps h̃ positive (appendix B). h starts at 0.

Differences from GPT-2: no attention and no positions; a hidden state of fixed size instead of keys and values, so that
the cost per token does not grow with the length; RMSNorm; every layer has its own embedding of the input token and its
own output head, whose losses are averaged (deep supervision, Lee et al. 2015, arXiv 1409.5185). The reference system
passed the arg-max token of a layer to the next one, which blocks the gradient; here the residual stream continues, and
each layer adds its embedding to it. The norm before the MLP has no scale: ``up`` learns it.

Matrices are initialized from U(±1/√fan-in) (LeCun et al. 1998, the default of PyTorch), biases with 0, embeddings from
N(0, 1). Dropout, off by default, applies to the embedding of each layer and to the outputs of MinGRU and MLP.

| preset     | parameters | in the blocks | published    |
|------------|------------|---------------|--------------|
| mingru-17m | 17,323,008 | 15,750,144    | samples only |
"""

from typing import Literal

from pydantic import Field, model_validator

from fabella.models.field_types import Dim, Dropout, Hidden, Layers, require_max_parameters
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import Normal, ParameterSpec, Uniform, embedding, linear, norm, prefixed


class Config(ModelConfig):
    family: Literal["mingru"] = "mingru"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    expansion: float = Field(default=1.0, gt=0.0, le=8.0, description="size of the hidden state, as a multiple of dim")
    ffn_dim: Hidden
    dropout: Dropout = 0.0

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(vocab_size=61, context_length=48, dim=24, layers=2, expansion=1.5, ffn_dim=40, dropout=0.1)

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
        table: dict[str, ParameterSpec] = {}
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block())
        return table

    def _block(self) -> dict[str, ParameterSpec]:
        dim, state, hidden = self.dim, self.state_dim, self.ffn_dim
        table = embedding("embedding", self.vocab_size, dim, Normal(1.0))
        table |= norm("mixer_norm", dim)
        table |= linear("mixer.gate", state, dim, _uniform(dim))
        table |= linear("mixer.candidate", state, dim, _uniform(dim))
        if state != dim:
            table |= linear("mixer.output", dim, state, _uniform(state))
        table |= linear("feed_forward.up", hidden, dim, _uniform(dim), bias=True)
        table |= linear("feed_forward.down", dim, hidden, _uniform(hidden), bias=True)
        table |= norm("head_norm", dim)
        return table | embedding("head", self.vocab_size, dim, _uniform(dim))


def _uniform(fan_in: int) -> Uniform:
    """Return the initialization U(±1/√fan_in)."""
    return Uniform(fan_in**-0.5)
