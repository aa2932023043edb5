"""Modern in PyTorch; modern.py describes the architecture."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fabella.models.modern import NORM_EPS, ROTARY_BASE, Config
from fabella.models.nn.attention_torch import AttentionSpec, KVCache, attend, split_heads
from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.convolution_torch import ShortConvolution
from fabella.models.nn.kernels.fused_heads_torch import fused_head_gate, fused_rotary
from fabella.models.nn.kernels.tensors_torch import has_hooks, kernels_for
from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU, scaled_sum, sum_and_norm
from fabella.models.nn.recurrence_torch import GatedMinGRU
from fabella.models.nn.rotary_torch import RotaryTable, apply_rotary, rotary_table

Value = Float[Tensor, "B T V"]  # V: dimensions of all key/value heads


@dataclass(slots=True)
class LayerState:
    """What one layer remembers. Replaced or updated in place by each call."""

    memory: Any
    """KVCache of attention, or hidden state [B S] of a MinGRU; None before the first token."""
    inputs: Float[Tensor, "B K D"] | None = None
    """Last inputs of the convolution; None before the first token."""


@dataclass(slots=True)
class State:
    layers: list[LayerState]
    rotary: RotaryTable | None
    """Angles of all positions; None without attention."""
    length: int = 0
    """Tokens so far."""


class Attention(nn.Module):
    """Causal attention with normed queries and keys, the first layer's values, and a gate on each head."""

    def __init__(self, config: Config, *, has_first_value: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_dim = config.dim // config.heads * config.kv_heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, kv_dim, bias=False)
        self.value = nn.Linear(config.dim, kv_dim, bias=False)
        self.mixes_values = "value_residual" in config.features and has_first_value
        if self.mixes_values:
            self.value_weights = nn.Parameter(torch.full((2,), 0.5))
        self.has_output_gate = "attention_gate" in config.features
        if self.has_output_gate:
            self.output_gate = nn.Linear(config.dim, config.heads, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)
        self.head_norm = (
            RMSNorm(config.dim // config.heads, NORM_EPS, scale=False) if "qk_norm" in config.features else None
        )

    @property
    def spec(self) -> AttentionSpec:
        weights = self.value_weights if self.mixes_values else None
        norm, gate = self.head_norm, self.has_output_gate
        return AttentionSpec(
            self.heads, self.kv_heads, apply_rotary, norm, norm, value_weights=weights, output_gate=gate
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        plain: Float[Tensor, "B T D"],
        rotary: RotaryTable,
        first_value: Value | None,
        kv_cache: KVCache | None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Value]:
        """Return the output, and this layer's own values. ``plain`` is ``x`` before the convolution."""
        query = self._rotated_heads(self.query(x), self.heads, rotary)
        key = self._rotated_heads(self.key(x), self.kv_heads, rotary)
        value = own_value = self.value(x)
        if self.mixes_values and first_value is not None:
            value = scaled_sum(own_value, first_value, self.value_weights)
        attended = attend(query, key, split_heads(value, self.kv_heads), kv_cache, document_starts)
        if self.has_output_gate:
            attended = gate_heads(attended, self.output_gate(plain))
        return self.output(attended), own_value

    def _rotated_heads(self, x: Float[Tensor, "B T D"], heads: int, rotary: RotaryTable) -> Float[Tensor, "B H T E"]:
        """Split into heads, norm each of them in float32 or wider, and rotate them by their position."""
        split = split_heads(x, heads)
        if self.head_norm is None:
            return apply_rotary(split, rotary)
        kernels = kernels_for(split)
        if kernels is not None and not has_hooks(self.head_norm):
            return fused_rotary(kernels, split, *rotary, interleaved=False, norm_eps=self.head_norm.eps)
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(2, (heads, -1))
        return apply_rotary(self.head_norm(wide).to(x.dtype).transpose(1, 2), rotary)


def gate_heads(x: Float[Tensor, "B T D"], gate: Float[Tensor, "B T H"]) -> Float[Tensor, "B T D"]:
    """Return each of the H heads of ``x`` times 2·σ(gate)."""
    kernels = kernels_for(x, gate)
    if kernels is not None:
        return fused_head_gate(kernels, x, gate)
    return (x.unflatten(2, (gate.shape[2], -1)) * (2 * gate.sigmoid()).unsqueeze(3)).flatten(2)


class Block(nn.Module):
    """The embedding again, a pre-norm mixer, then a pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: Config, kind: str, *, has_first_value: bool) -> None:
        super().__init__()
        if "embedding_residual" in config.features:
            self.residual_weight = nn.Parameter(torch.ones(1))
            self.embedding_weight = nn.Parameter(torch.full((1,), 0.1))
        self.embedding_residual = "embedding_residual" in config.features
        self.mixer_norm = RMSNorm(config.dim, NORM_EPS)
        self.convolution = ShortConvolution(config.dim, config.convolution) if config.past_inputs else None
        self.mixer = (
            Attention(config, has_first_value=has_first_value)
            if kind == "a"
            else GatedMinGRU(config.dim, config.state_dim, NORM_EPS)
        )
        self.feed_forward_norm = RMSNorm(config.dim, NORM_EPS)
        self.feed_forward = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        embedded: Float[Tensor, "B T D"],
        rotary: RotaryTable | None,
        first_value: Value | None,
        state: LayerState | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Value | None]:
        """Return the residual stream and the values of the first attention layer so far; updates ``state``."""
        if self.embedding_residual:
            factors = torch.cat((self.residual_weight, self.embedding_weight))
            x, plain = sum_and_norm(x, embedded, self.mixer_norm, factors)
        else:
            plain = self.mixer_norm(x)
        convolved = plain
        if self.convolution is not None:
            convolved, inputs = self.convolution(plain, state.inputs if state else None, document_starts)
            if state:
                state.inputs = inputs
        memory = state.memory if state else None
        if isinstance(self.mixer, GatedMinGRU):
            mixed, memory = self.mixer(convolved, memory, document_starts, plain)
            if state:
                state.memory = memory
        else:
            assert rotary is not None, "attention needs the angles of the positions"
            mixed, value = self.mixer(convolved, plain, rotary, first_value, memory, document_starts)
            first_value = value if first_value is None else first_value
        x, normed = sum_and_norm(x, self.dropout(mixed), self.feed_forward_norm)
        return x + self.dropout(self.feed_forward(normed)), first_value


class Model(CausalLM):
    """The embedding, normed, the blocks, a final norm, the output head."""

    masks_documents = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = RMSNorm(config.dim, NORM_EPS, scale=False)
        self.dropout = nn.Dropout(config.dropout)
        kinds = config.kinds
        self.blocks = nn.ModuleList(
            Block(config, kind, has_first_value="a" in kinds[:layer]) for layer, kind in enumerate(kinds)
        )
        self.norm = RMSNorm(config.dim, NORM_EPS)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.config.tie_embeddings else self.head.weight

    def rotary_table(self, length: int, device: torch.device) -> RotaryTable:
        """Return the angles of the first ``length`` positions."""
        return rotary_table(self.config.dim // self.config.heads, ROTARY_BASE, length, device)

    def hidden_states(
        self, tokens: Int[Tensor, "B T"], state: State | None = None, document_starts: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        start = state.length if state else 0
        end = start + tokens.shape[1]
        self._require_context(end)
        for layer in state.layers if state else ():  # before any layer is updated: a refused call changes nothing
            if isinstance(layer.memory, KVCache):
                layer.memory.require_capacity(tokens.shape[1])
        rotary = None
        if not self.config.unlimited_context:
            rotary = state.rotary if state else self.rotary_table(end, tokens.device)
            assert rotary is not None, "a state of a model with attention has the angles"
            rotary = rotary.span(start, end)
        embedded = self.dropout(self.embedding_norm(self.embedding(tokens)))
        x = embedded = embedded.type_as(self.embedding.weight)  # training kernels round the result of a norm
        first_value = None
        for number, block in enumerate(self.blocks):
            layer = state.layers[number] if state else None
            x, first_value = block(x, embedded, rotary, first_value, layer, document_starts)
        if state:
            state.length = end
        return self.norm(x)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Allocate a state for ``capacity`` tokens per sequence. Raises UsageError beyond the context length."""
        self._require_context(capacity)
        c, like = self.config, self.norm.weight.detach()
        layers = [
            LayerState(KVCache(batch_size, c.kv_heads, capacity, c.dim // c.heads, like) if kind == "a" else None)
            for kind in c.kinds
        ]
        return State(layers, None if c.unlimited_context else self.rotary_table(capacity, like.device))

    def _require_context(self, tokens: int) -> None:
        if not self.config.unlimited_context:
            require_capacity(tokens, self.config.context_length, "context")
