"""Qwen 2 and 3, and Llama 3.1 and later: Llama with biases, normed queries and keys, and a stretched rotary embedding.

    logits = W_head RMSNorm(x_L)                       W_head is the embedding if ``tie_embeddings``
       ▲
     (+)◄── W_down(silu(W_gate y) · W_up y)     ┐  y = RMSNorm(x)
      │                                         │  × layers
     (+)◄── W_o softmax(Q'K'ᵀ/√E + mask) V      ┘  Q', K' = RMSNorm(W y + b) of each head, rotated by position;
      ▲                                            V = W y + b
    x_0 = embedding[token]

Differences from Llama: query, key and value have a bias (``qkv_bias``, Qwen 2: Yang et al. 2024, arXiv 2407.10671);
queries and keys are normed per head with a learned scale (``qk_norm``, Qwen 3: Yang et al. 2025, arXiv 2505.09388;
Dehghani et al. 2023, arXiv 2302.05442); the size of a head, ``head_dim``, does not follow from the width; and
``rotary_scaling`` lowers the frequencies of the rotary embedding for contexts longer than those of the training
(Llama 3.1: Dubey et al. 2024, arXiv 2407.21783).
"""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from fabella.config.base import ConfigModel
from fabella.models.field_types import (
    Dim,
    Epsilon,
    HeadDim,
    Heads,
    Hidden,
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

INIT = Normal(0.02)
Factor = Annotated[float, Field(ge=1.0, le=1e6, description="how much longer the context is")]


class UnscaledRotary(ConfigModel):
    """Frequencies as in Llama."""

    kind: Literal["none"] = "none"


class LinearRotary(ConfigModel):
    """All frequencies divided by ``factor`` (Chen et al. 2023, arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Factor


class Llama3Rotary(ConfigModel):
    """Low frequencies divided by ``factor``, high ones unchanged, and a smooth passage between them."""

    kind: Literal["llama3"] = "llama3"
    factor: Factor
    low_frequency_factor: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="rotations within original_context_length below which a frequency is divided by factor",
    )
    high_frequency_factor: float = Field(
        default=4.0,
        gt=0.0,
        le=1e6,
        description="rotations within original_context_length above which a frequency does not change",
    )
    original_context_length: int = Field(
        default=8192, ge=1, le=2**20, description="tokens of a training sequence before the context was made longer"
    )

    @model_validator(mode="after")
    def _factors_differ(self) -> "Llama3Rotary":
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"high_frequency_factor = {self.high_frequency_factor:g} is not above low_frequency_factor = "
                f"{self.low_frequency_factor:g}; try 4 and 1"
            )
        return self


RotaryScaling = Annotated[UnscaledRotary | LinearRotary | Llama3Rotary, Field(discriminator="kind")]


class Config(ModelConfig):
    family: Literal["qwen"] = "qwen"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: Dim
    layers: Layers
    heads: Heads
    kv_heads: KVHeads
    head_dim: HeadDim
    ffn_dim: Hidden
    rotary_base: RotaryBase = 1_000_000.0
    rotary_scaling: RotaryScaling = UnscaledRotary()
    norm_eps: Epsilon = 1e-6
    tie_embeddings: TieEmbeddings = True
    qkv_bias: bool = Field(default=False, description="biases of queries, keys and values")
    qk_norm: bool = Field(default=True, description="RMSNorm of queries and keys, per head")

    @classmethod
    def tiny(cls) -> "Config":
        """Return a small config for tests that uses every feature."""
        return cls(
            vocab_size=61,
            context_length=48,
            dim=24,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=8,
            ffn_dim=40,
            rotary_base=100.0,
            rotary_scaling=Llama3Rotary(factor=4.0, original_context_length=16),
            tie_embeddings=False,
            qkv_bias=True,
        )

    @property
    def rotary_frequencies(self) -> list[float]:
        """Radians per position of each pair of dimensions of a head."""
        frequencies = 1.0 / np.float32(self.rotary_base) ** (
            np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        )
        match self.rotary_scaling:
            case LinearRotary(factor=factor):
                frequencies = frequencies / np.float32(factor)
            case Llama3Rotary() as scaling:
                frequencies = _llama3(frequencies, scaling)
            case _:
                pass
        return [float(frequency) for frequency in frequencies]

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        require_multiple("heads", self.heads, "kv_heads", self.kv_heads)
        require_even("head_dim", self.head_dim, "dims rotate in pairs; try head_dim = 64")
        require_max_parameters(self.parameters())
        return self

    def parameters(self) -> dict[str, ParameterSpec]:
        table = embedding("embedding", self.vocab_size, self.dim, INIT)
        for layer in range(self.layers):
            table |= prefixed(f"blocks.{layer}", self._block())
        table |= norm("norm", self.dim)
        return table if self.tie_embeddings else table | embedding("head", self.vocab_size, self.dim, INIT)

    def _block(self) -> dict[str, ParameterSpec]:
        query_dim, kv_dim = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            **norm("attention_norm", self.dim),
            **linear("attention.query", query_dim, self.dim, INIT, bias=self.qkv_bias),
            **linear("attention.key", kv_dim, self.dim, INIT, bias=self.qkv_bias),
            **linear("attention.value", kv_dim, self.dim, INIT, bias=self.qkv_bias),
            **(norm("attention.query_norm", self.head_dim) if self.qk_norm else {}),
            **(norm("attention.key_norm", self.head_dim) if self.qk_norm else {}),
            **linear("attention.output", self.dim, query_dim, INIT),
            **norm("feed_forward_norm", self.dim),
            **linear("feed_forward.gate", self.ffn_dim, self.dim, INIT),
            **linear("feed_forward.up", self.ffn_dim, self.dim, INIT),
            **linear("feed_forward.down", self.dim, self.ffn_dim, INIT),
        }


def _llama3(frequencies: "np.typing.NDArray[np.float32]", scaling: Llama3Rotary) -> "np.typing.NDArray[np.float32]":
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    periods = scaling.original_context_length / wavelengths  # in the original context
    smooth = np.clip((periods - low) / (high - low), 0.0, 1.0)
    scaled = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    return scaled.astype(np.float32)
