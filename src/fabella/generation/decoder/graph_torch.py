"""A model as a graph of fused decode operations: one more token of many sequences, or a chunk of one, in few kernels.

It computes what the model's ``forward`` computes, from the same weights, without gradients and dropout: layers that
read the same vector are one matrix product, the scale of a norm is multiplied into the matrix that follows, and KV
caches and hidden states are preallocated tensors with one row per sequence. ``lower_torch`` builds it from a model.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex64, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.generation.decoder.packed_linear_torch import LinearFactory, PackedLinear
from fabella.generation.decoder.step_inputs_torch import StepInputs

DecodeCache = Tensor | None
"""State of one operation, one row per sequence; None for a stateless operation."""


@runtime_checkable
class ResidualOp(Protocol):
    """Operation that returns what is added to the residual stream ``x`` [N D]."""

    def init_cache(self, rows: int, capacity: int) -> DecodeCache: ...

    def __call__(self, x: Tensor, inputs: StepInputs, cache: Any) -> Tensor: ...


@runtime_checkable
class NormOp(Protocol):
    """Norm without its ``scale``, which is multiplied into the matrix that follows."""

    scale: Float[Tensor, " D"] | None

    def __call__(self, x: Tensor) -> Tensor: ...

    def scaled(self, x: Tensor) -> Tensor:
        """Return the whole norm, where no matrix follows that the scale could be multiplied into."""
        ...


class RMSNormOp:
    """x / √(D·(mean(x²) + eps)) in three kernels; ``scale`` = weight · √D completes it to RMSNorm."""

    def __init__(self, weight: Float[Tensor, " D"], eps: float) -> None:
        self.weight, self.eps = weight.detach(), eps
        dim = len(weight)
        self.scale: Tensor | None = self.weight * dim**0.5
        self._min_length = self.weight.new_full((1, 1), (eps * dim) ** 0.5)

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length, self._min_length)

    def scaled(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """See NormOp."""
        return self(x) * (self.weight * len(self.weight) ** 0.5)


class LayerNormOp:
    """PyTorch's LayerNorm in one kernel, scale and offset included."""

    scale: Tensor | None = None

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight: Tensor = norm.weight.detach()
        self.bias: Tensor | None = None if norm.bias is None else norm.bias.detach()  # pyright: ignore[reportUnnecessaryComparison]
        self.eps: float = norm.eps

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def scaled(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """See NormOp."""
        return self(x)


class LinearOp:
    """Linear layers that read the same normed vector, as one matrix product.

    Weights are packed at the first call: the native backend, which reads ``weights`` directly, needs no copy.
    """

    def __init__(
        self, factory: LinearFactory, norm: NormOp | None, *layers: Any, order: Int[Tensor, " O"] | None = None
    ) -> None:
        """``layers``: linear layers, or a weight [O I]; ``order``: permutation of the output rows."""
        self.norm = norm
        self.weights: list[Tensor] = [getattr(layer, "weight", layer).detach() for layer in layers]
        biases: list[Tensor | None] = [getattr(layer, "bias", None) for layer in layers]
        self.biases: list[Tensor] = []
        """One per layer, 0 for a layer without; or empty."""
        if any(bias is not None for bias in biases):
            self.biases = [
                weight.new_zeros(len(weight)) if bias is None else bias.detach()
                for weight, bias in zip(self.weights, biases, strict=True)
            ]
        self._factory, self._order = factory, order

    @cached_property
    def _linear(self) -> PackedLinear:
        weight = torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0]
        bias = torch.cat(self.biases) if self.biases else None
        if self.norm is not None and self.norm.scale is not None:
            weight = weight * self.norm.scale
        if self._order is not None:
            weight, bias = weight[self._order], None if bias is None else bias[self._order]
        return self._factory(weight, bias)

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N O"]:
        return self._linear(x if self.norm is None else self.norm(x))


class HeadNormOp:
    """RMSNorm of each query head and each key head, with a scale for both kinds."""

    def __init__(self, query_weight: Float[Tensor, " E"], key_weight: Float[Tensor, " E"], eps: float) -> None:
        self.query_weight, self.key_weight, self.eps = query_weight.detach(), key_weight.detach(), eps

    def weights(self, heads: int, kv_heads: int) -> Float[Tensor, "H+K E"]:
        """Return the scale of every head."""
        return torch.cat((self.query_weight.expand(heads, -1), self.key_weight.expand(kv_heads, -1)))


class AttentionOp:
    """Queries, keys and values by one matrix product; the rotary embedding by one complex multiplication.

    A rotated pair of dimensions is one complex number, multiplied by e^(i·angle).
    """

    def __init__(
        self,
        attention: Any,
        norm: NormOp | None,
        factory: LinearFactory,
        *,
        heads: int,
        kv_heads: int,
        rotary: Complex64[Tensor, "S P"] | None = None,
        half_rotation: bool = False,
        head_norm: HeadNormOp | None = None,
        window: int | None = None,
        scale: float | None = None,
        value_weights: Float[Tensor, " 2"] | None = None,
    ) -> None:
        """``attention`` has the layers ``query``, ``key``, ``value``, ``output``; ``rotary`` is e^(i·angle) per pair.

        The first 2·P dimensions of a head are rotated. With ``half_rotation``, dimension i is rotated with i + P rather
        than with its neighbor: the rows of queries and keys are permuted so that such pairs are neighbors, which leaves
        their dot products unchanged. A token sees ``window`` tokens, or all; ``scale`` of the products is 1/√E if None.
        ``value_weights``: factors of its own values and of those of the first attention. A layer ``output_gate`` has a
        row per head, whose 2·σ multiplies the head's output. Without ``norm``, a ConvolutionOp precedes: queries, keys
        and values read its output, gates its input.
        """
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, len(attention.key.weight) // kv_heads
        self.rotary, self.half_rotation = rotary, half_rotation
        self.head_norm, self.window, self.scale = head_norm, window, scale
        self.value_weights = None if value_weights is None else value_weights.detach()
        self.keeps_values = False
        """Whether later layers read this layer's values."""
        self.output_gate = hasattr(attention, "output_gate")
        self.convolved = norm is None
        gates = [attention.output_gate] if self.output_gate and not self.convolved else []
        self.gate_matrix = LinearOp(factory, None, attention.output_gate) if self.output_gate and not gates else None
        """The gates, if they read another vector than queries, keys and values."""
        order = within = None
        if half_rotation:
            assert rotary is not None, "a rotation needs the angles of the positions"
            within = _pairs_as_neighbors(rotary.shape[1], self.head_dim)
            order = (torch.arange(heads + 2 * kv_heads).unsqueeze(1) * self.head_dim + within).flatten()
            rotated = (heads + kv_heads) * self.head_dim
            order[rotated:] = torch.arange(rotated, len(order))
            order = torch.cat((order, torch.arange(len(order), len(order) + heads * len(gates))))
        self._norm_weights = None
        if head_norm is not None:
            weights = head_norm.weights(heads, kv_heads)
            self._norm_weights = weights if within is None else weights[:, within]
        layers = [attention.query, attention.key, attention.value, *gates]
        self.matrix = LinearOp(factory, norm, *layers, order=order)
        self.output = LinearOp(factory, None, attention.output)

    @property
    def score_scale(self) -> float:
        """Factor of the products of queries and keys, a float32."""
        return self.scale if self.scale is not None else float(np.float32(1) / np.sqrt(np.float32(self.head_dim)))

    def init_cache(self, rows: int, capacity: int) -> Float[Tensor, "R 2 K S E"]:
        """Allocate keys and values. Zeros, because masked values are multiplied by 0 and must be finite."""
        return self.matrix.weights[0].new_zeros(rows, 2, self.kv_heads, capacity, self.head_dim)

    def __call__(
        self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: Float[Tensor, "R 2 K S E"]
    ) -> Float[Tensor, "N D"]:
        rows = len(x)
        read, normed = inputs.mixer_inputs(x, convolved=self.convolved)
        projected, gates = self.matrix(read), None
        if self.gate_matrix is not None:
            gates = self.gate_matrix(normed)
        elif self.output_gate:
            gates = projected[:, -self.heads :]
            projected = projected[:, : -self.heads].contiguous()
        projected = projected.view(rows, -1, self.head_dim)
        rotated = projected.narrow(1, 0, self.heads + self.kv_heads)
        if self.head_norm is not None:
            assert self._norm_weights is not None
            inverse = rotated.square().mean(-1, keepdim=True).add_(self.head_norm.eps).rsqrt_()
            rotated.mul_(inverse).mul_(self._norm_weights)
        if self.rotary is not None:
            pairs = rotated.narrow(2, 0, 2 * self.rotary.shape[1]).unflatten(2, (-1, 2))
            torch.view_as_complex(pairs).mul_(inputs.at_positions(self.rotary.unsqueeze(1)))
        query = projected.narrow(1, 0, self.heads)
        new = projected.narrow(1, self.heads, 2 * self.kv_heads).view(rows, 2, self.kv_heads, self.head_dim)
        self._mix_values(new.select(1, 1), inputs)
        attended = inputs.attend(query, new, cache, scale=self.scale, window=self.window)
        if gates is not None:
            attended = (attended.view(rows, self.heads, -1) * (2 * gates.sigmoid()).unsqueeze(2)).flatten(1)
        return self.output(attended)

    def _mix_values(self, values: Float[Tensor, "N K E"], inputs: StepInputs) -> None:
        """Mix ``values`` with those of the first attention, or keep them if this is the first one."""
        if self.keeps_values:
            inputs.first_values = values.clone()
        if self.value_weights is not None:
            assert inputs.first_values is not None, "an attention before this one keeps its values"
            own, first = self.value_weights.unbind()
            values.mul_(own).addcmul_(inputs.first_values, first)


def _pairs_as_neighbors(pairs: int, head_dim: int) -> Int[Tensor, " E"]:
    """Return the order 0, P, 1, P + 1, … of a head's dimensions, then those that are not rotated."""
    return torch.cat((torch.arange(2 * pairs).view(2, -1).T.flatten(), torch.arange(2 * pairs, head_dim)))


class ConvolutionOp:
    """Short convolution of the normed input of the mixer that follows, which reads it; adds nothing to the stream."""

    def __init__(self, weight: Float[Tensor, "D 1 K+1"], norm: NormOp) -> None:
        self.norm, self.taps = norm, weight.detach().squeeze(1).T.contiguous()

    def init_cache(self, rows: int, capacity: int) -> Float[Tensor, "R K D"]:
        """Allocate the last inputs, initialized to 0."""
        size, dim = self.taps.shape
        return self.taps.new_zeros(rows, size - 1, dim)

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: Float[Tensor, "R K D"]) -> Float[Tensor, ""]:
        inputs.normed = self.norm.scaled(x)
        inputs.convolved = inputs.convolve(inputs.normed, self.taps, cache)
        return x.new_zeros(())


class RecurrenceOp:
    """MinGRU, gate and candidate by one matrix product."""

    def __init__(self, mixer: Any, norm: NormOp, factory: LinearFactory) -> None:
        """``mixer`` has the layers ``gate``, ``candidate``, ``output``."""
        self.matrix = LinearOp(factory, norm, mixer.gate, mixer.candidate)
        self.output = LinearOp(factory, None, mixer.output) if hasattr(mixer.output, "weight") else None

    def init_cache(self, rows: int, capacity: int) -> Float[Tensor, "R S"]:
        """Allocate hidden states, initialized to 0."""
        gate = self.matrix.weights[0]
        return gate.new_zeros(rows, len(gate))

    def __call__(
        self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: Float[Tensor, "R S"]
    ) -> Float[Tensor, "N D"]:
        hidden = inputs.recur(self.matrix(x), cache)
        return hidden if self.output is None else self.output(hidden)


class GatedRecurrenceOp:
    """MinGRU whose hidden state is normed and multiplied by silu(output_gate x) before the output projection."""

    def __init__(self, mixer: Any, norm: NormOp | None, factory: LinearFactory) -> None:
        """``mixer`` is a GatedMinGRU. Without ``norm``, a ConvolutionOp precedes; the output gate reads its input."""
        self.convolved = norm is None
        self.matrix = LinearOp(factory, norm, mixer.gate, mixer.candidate)
        self.output_gate = LinearOp(factory, norm, mixer.output_gate)
        self.norm = RMSNormOp(mixer.output_norm.weight, mixer.output_norm.eps)
        self.output = LinearOp(factory, None, mixer.output)

    def init_cache(self, rows: int, capacity: int) -> Float[Tensor, "R S"]:
        """Allocate hidden states, initialized to 0."""
        gate = self.matrix.weights[0]
        return gate.new_zeros(rows, len(gate))

    def __call__(
        self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: Float[Tensor, "R S"]
    ) -> Float[Tensor, "N D"]:
        read, normed = inputs.mixer_inputs(x, convolved=self.convolved)
        hidden = inputs.recur(self.matrix(read), cache)
        return self.output(self.norm.scaled(hidden) * functional.silu(self.output_gate(normed)))


class StatelessOp:
    """Base of operations without a cache."""

    def init_cache(self, rows: int, capacity: int) -> None:
        """Return None: there is no state."""


class SwiGLUOp(StatelessOp):
    """down(silu(gate x) · up x), gate and up by one matrix product."""

    def __init__(self, mlp: Any, norm: NormOp, factory: LinearFactory) -> None:
        self.matrix, self.down = LinearOp(factory, norm, mlp.gate, mlp.up), LinearOp(factory, None, mlp.down)

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: None) -> Float[Tensor, "N D"]:
        gate, up = self.matrix(x).chunk(2, dim=1)
        return self.down(functional.silu(gate).mul_(up))


class GELUOp(StatelessOp):
    """down(GELU(up x))."""

    def __init__(self, mlp: Any, norm: NormOp, factory: LinearFactory, *, approximate: str = "none") -> None:
        self.matrix, self.down = LinearOp(factory, norm, mlp.up), LinearOp(factory, None, mlp.down)
        self.approximate = approximate

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: None) -> Float[Tensor, "N D"]:
        return self.down(functional.gelu(self.matrix(x), approximate=self.approximate))


class EmbeddingAddOp(StatelessOp):
    """Each token's row of an embedding, added to the residual stream."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self.table = embedding.weight.detach()

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: None) -> Float[Tensor, "N D"]:
        return functional.embedding(inputs.tokens, self.table)


class EmbeddingMixOp(StatelessOp):
    """own_weight · x + embedding_weight · (the embeddings that started the residual stream), which replaces x."""

    def __init__(self, own_weight: Float[Tensor, " 1"], embedding_weight: Float[Tensor, " 1"]) -> None:
        self.own_weight, self.embedding_weight = own_weight.detach(), embedding_weight.detach()

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: None) -> Float[Tensor, "N D"]:
        assert inputs.embedded is not None, "EmbeddingOp sets the embeddings"
        return (self.own_weight - 1) * x + self.embedding_weight * inputs.embedded


class ParallelOp:
    """Operations that read the same residual stream; their outputs are added to it. One of them may have a cache."""

    def __init__(self, members: Sequence[ResidualOp]) -> None:
        self.members = members

    def init_cache(self, rows: int, capacity: int) -> DecodeCache:
        """Return the cache of the member that has one."""
        return next((m.init_cache(rows, capacity) for m in self.members if not isinstance(m, StatelessOp)), None)

    def __call__(self, x: Float[Tensor, "N D"], inputs: StepInputs, cache: DecodeCache) -> Float[Tensor, "N D"]:
        first, *others = (m(x, inputs, None if isinstance(m, StatelessOp) else cache) for m in self.members)
        return sum(others, first)


def flat_ops(ops: Sequence[ResidualOp]) -> list[ResidualOp]:
    """Return all operations, those inside a ``ParallelOp`` too."""
    return [member for op in ops for member in (op.members if isinstance(op, ParallelOp) else (op,))]


class EmbeddingOp:
    """Start of the residual stream: token embedding, plus position embedding, normed, then up-projected if narrow."""

    def __init__(
        self,
        table: Tensor,
        positions: Tensor | None = None,
        up_proj: LinearOp | None = None,
        norm: RMSNormOp | None = None,
    ) -> None:
        self.table, self.positions = table.detach(), None if positions is None else positions.detach()
        self.up_proj, self.norm = up_proj, norm
        self.is_kept = False
        """Whether later operations read the embeddings again."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, "N D"]:
        x = functional.embedding(inputs.tokens, self.table)
        if self.positions is not None:
            x.add_(inputs.at_positions(self.positions))
        if self.norm is not None:
            x = self.norm.scaled(x)
        x = x if self.up_proj is None else self.up_proj(x)
        if self.is_kept:
            inputs.embedded = x.clone()
        return x


class DecoderGraph:
    """The whole network as operations. Its caches are separate, so that several batches can share one graph."""

    def __init__(self, embedding: EmbeddingOp, ops: Sequence[ResidualOp], head: Sequence[LinearOp]) -> None:
        """``embedding`` starts the residual stream [N D]; ``head``, applied one after another, ends in the logits."""
        self.embedding, self.ops, self.head = embedding, ops, head

    def init_cache(self, rows: int, capacity: int) -> list[DecodeCache]:
        """Allocate caches for ``capacity`` tokens in each of ``rows`` rows.

        Attention never looks beyond a row's own positions, so that a KV cache needs no reset for a new sequence; a
        hidden state and the inputs of a convolution do (``reset_row``).
        """
        return [op.init_cache(rows, capacity) for op in self.ops]

    def __call__(self, inputs: StepInputs, caches: Sequence[DecodeCache]) -> Float[Tensor, "N V"]:
        """Return logits after each last token of ``inputs``, and update ``caches``."""
        x = self.embedding(inputs)
        for op, cache in zip(self.ops, caches, strict=True):
            x.add_(op(x, inputs, cache))
        x = inputs.last(x)
        for matrix in self.head:
            x = matrix(x)
        return x


def is_kv_cache(cache: Tensor) -> bool:
    """Return whether a cache has a place for every position, rather than a state that each token replaces."""
    return cache.dim() == 5


@torch.inference_mode()
def reset_row(caches: Sequence[DecodeCache], row: int) -> None:
    """Start a new sequence in ``row``: set its hidden states, and the last inputs of its convolutions, to 0."""
    for cache in caches:
        if cache is not None and not is_kv_cache(cache):
            cache[row] = 0.0


@torch.inference_mode()
def copy_row(caches: Sequence[DecodeCache], source: int, target: int, length: int) -> None:
    """Copy row ``source``, of which ``length`` positions are filled, to row ``target``."""
    for cache in caches:
        if cache is None:
            continue
        if is_kv_cache(cache):
            cache[target, :, :, :length] = cache[source, :, :, :length]
        else:
            cache[target] = cache[source]
