"""A model laid out for telling: one more token of many texts, or a stretch of one text, in as few operations as can be.

The same network as a family's ``Model`` computes, from the same weights, but of blocks that know neither gradients nor
dropout: matrices that read the same vector are one matrix; the scale of a norm is multiplied into the matrix that reads
it; keys, values and hidden states lie where they stay, a row a text.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Complex64, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn.packed_linear_torch import LinearFactory, Product
from fabella.models.nn.step_inputs_torch import StepInputs

DecodeCache = Tensor | None
"""What one block remembers, a row a text; None where it remembers nothing."""


@runtime_checkable
class Part(Protocol):
    """A step of the stream: what it adds to ``x`` [N D]."""

    def start(self, rows: int, capacity: int) -> DecodeCache: ...

    def __call__(self, x: Tensor, reading: StepInputs, memory: Any) -> Tensor: ...


@runtime_checkable
class Norm(Protocol):
    """A norm without its scale, which is multiplied into the matrix that reads it."""

    scale: Float[Tensor, " D"] | None

    def __call__(self, x: Tensor) -> Tensor: ...


class RootMeanSquare:
    """x / √(D·(mean(x²) + eps)): three operations; ``scale`` is the rest of RMSNorm."""

    def __init__(self, weight: Float[Tensor, " D"], eps: float) -> None:
        self.weight, self.eps = weight.detach(), eps
        dim = len(weight)
        self.scale: Tensor | None = self.weight * dim**0.5
        self._least = self.weight.new_full((1, 1), (eps * dim) ** 0.5)

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length, self._least)


class LayerNorm:
    """As PyTorch has it, in one operation, scale and offset included."""

    scale: Tensor | None = None

    def __init__(self, of: Any) -> None:
        self.weight: Tensor = of.weight.detach()
        self.bias: Tensor | None = None if of.bias is None else of.bias.detach()
        self.eps: float = of.eps

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class LinearOp:
    """The matrices of linear layers, one below the other, that read what ``norm`` gives of x.

    Their weights are laid out at the first use: whoever computes with them in another way needs no copy.
    """

    def __init__(
        self, layout: LinearFactory, norm: Norm | None, *layers: Any, order: Int[Tensor, " O"] | None = None
    ) -> None:
        """``layers``: linear layers, or a bare weight; ``order``: of the rows."""
        self.norm = norm
        self.weights: list[Tensor] = [getattr(layer, "weight", layer).detach() for layer in layers]
        biases: list[Tensor | None] = [getattr(layer, "bias", None) for layer in layers]
        self.biases = [bias.detach() for bias in biases if bias is not None]
        """Of all layers or of none"""
        self._layout, self._order = layout, order

    @cached_property
    def _product(self) -> Product:
        weight = torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0]
        bias = torch.cat(self.biases) if self.biases else None
        if self.norm is not None and self.norm.scale is not None:
            weight = weight * self.norm.scale
        if self._order is not None:
            weight, bias = weight[self._order], None if bias is None else bias[self._order]
        return self._layout(weight, bias)

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N O"]:
        return self._product(x if self.norm is None else self.norm(x))


class AttentionOp:
    """Queries, keys and values by one matrix; positions, where there are any, by one multiplication.

    Two numbers that turn together are one complex number, which is multiplied by e^(i·angle).
    """

    def __init__(
        self,
        of: Any,
        norm: Norm,
        layout: LinearFactory,
        *,
        heads: int,
        kv_heads: int,
        turns: Complex64[Tensor, "S P"] | None = None,
        half_rotation: bool = False,
    ) -> None:
        """``of``: the layers ``query``, ``key``, ``value``, ``output``. ``turns``: e^(i·angle) for each pair.

        ``halves``: dim i of a head turns with dim i + E/2 rather than with its neighbour; the rows of queries and keys
        are put in an order in which they are neighbours, which no product of the two can tell.
        """
        self.heads, self.kv_heads, self.dim = heads, kv_heads, len(of.key.weight) // kv_heads
        self.turns, self.half_rotation = turns, half_rotation
        order = None
        if half_rotation:
            turned = (heads + kv_heads) * self.dim
            order = torch.arange(turned + kv_heads * self.dim)
            order[:turned] = _neighbours(heads + kv_heads, self.dim)
        self.matrix = LinearOp(layout, norm, of.query, of.key, of.value, order=order)
        self.output = LinearOp(layout, None, of.output)

    def start(self, rows: int, capacity: int) -> Float[Tensor, "R 2 K S E"]:
        """Room for keys and values: zeros, as a value behind the mask must at least be a number."""
        return self.matrix.weights[0].new_zeros(rows, 2, self.kv_heads, capacity, self.dim)

    def __call__(
        self, x: Float[Tensor, "N D"], reading: StepInputs, memory: Float[Tensor, "R 2 K S E"]
    ) -> Float[Tensor, "N D"]:
        rows, turned = len(x), self.heads + self.kv_heads
        found = self.matrix(x).view(rows, -1, self.dim)
        if self.turns is not None:
            pairs = found.narrow(1, 0, turned).view(rows, turned, -1, 2)
            torch.view_as_complex(pairs).mul_(reading.of(self.turns.unsqueeze(1)))
        query = found.narrow(1, 0, self.heads)
        new = found.narrow(1, self.heads, 2 * self.kv_heads).view(rows, 2, self.kv_heads, self.dim)
        return self.output(reading.attend(query, new, memory))


def _neighbours(heads: int, dim: int) -> Int[Tensor, " R"]:
    """For each head, the order 0, E/2, 1, E/2 + 1, …"""
    within = torch.arange(dim).view(2, -1).T.flatten()
    return (torch.arange(heads).unsqueeze(1) * dim + within).flatten()


def turns(cos: Float[Tensor, "S P"], sin: Float[Tensor, "S P"], pairs: int) -> Complex64[Tensor, "S E/2"]:
    """e^(i·angle) of each pair of a head; those beyond the given angles stay: 1."""
    given = torch.complex(cos, sin)
    return torch.cat((given, torch.ones(len(given), pairs - given.shape[1], device=given.device)), dim=1)


class RecurrenceOp:
    """MinGRU: gate and candidate by one matrix."""

    def __init__(self, of: Any, norm: Norm, layout: LinearFactory) -> None:
        """``of``: the layers ``gate``, ``candidate``, ``output``."""
        self.matrix = LinearOp(layout, norm, of.gate, of.candidate)
        self.output = LinearOp(layout, None, of.output) if hasattr(of.output, "weight") else None

    def start(self, rows: int, capacity: int) -> Float[Tensor, "R S"]:
        """Hidden states that have read nothing."""
        gate = self.matrix.weights[0]
        return gate.new_zeros(rows, len(gate))

    def __call__(
        self, x: Float[Tensor, "N D"], reading: StepInputs, memory: Float[Tensor, "R S"]
    ) -> Float[Tensor, "N D"]:
        hidden = reading.recur(self.matrix(x), memory)
        return hidden if self.output is None else self.output(hidden)


class StatelessOp:
    """A part that remembers nothing."""

    def start(self, rows: int, capacity: int) -> None:
        """Nothing to remember."""


class SwiGLUOp(StatelessOp):
    """down(silu(gate x) · up x), gate and up by one matrix."""

    def __init__(self, of: Any, norm: Norm, layout: LinearFactory) -> None:
        self.matrix, self.down = LinearOp(layout, norm, of.gate, of.up), LinearOp(layout, None, of.down)

    def __call__(self, x: Float[Tensor, "N D"], reading: StepInputs, memory: None) -> Float[Tensor, "N D"]:
        gate, up = self.matrix(x).chunk(2, dim=1)
        return self.down(functional.silu(gate).mul_(up))


class GELUOp(StatelessOp):
    """down(GELU(up x))."""

    def __init__(self, of: Any, norm: Norm, layout: LinearFactory, *, approximate: str = "none") -> None:
        self.matrix, self.down = LinearOp(layout, norm, of.up), LinearOp(layout, None, of.down)
        self.approximate = approximate

    def __call__(self, x: Float[Tensor, "N D"], reading: StepInputs, memory: None) -> Float[Tensor, "N D"]:
        return self.down(functional.gelu(self.matrix(x), approximate=self.approximate))


class EmbeddingAddOp(StatelessOp):
    """Each token's row of a table, once more."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self.table = embedding.weight.detach()

    def __call__(self, x: Float[Tensor, "N D"], reading: StepInputs, memory: None) -> Float[Tensor, "N D"]:
        return functional.embedding(reading.tokens, self.table)


def root_mean_square(of: Any) -> RootMeanSquare:
    """The norm of an RMSNorm."""
    return RootMeanSquare(of.weight, of.eps)


class EmbeddingOp:
    """The stream's beginning: each token's row, with its position's where positions have rows, widened where narrow."""

    def __init__(self, table: Tensor, places: Tensor | None = None, up_proj: LinearOp | None = None) -> None:
        self.table, self.places = table.detach(), None if places is None else places.detach()
        self.up_proj = up_proj

    def __call__(self, reading: StepInputs) -> Float[Tensor, "N D"]:
        x = functional.embedding(reading.tokens, self.table)
        if self.places is not None:
            x.add_(reading.of(self.places))
        return x if self.up_proj is None else self.up_proj(x)


class DecoderGraph:
    """The whole network. What it remembers is apart from it: several tellings may share one decoder."""

    def __init__(self, first: EmbeddingOp, parts: Sequence[Part], last: Sequence[LinearOp]) -> None:
        """``first`` makes the stream [N D], anew for each reading; ``last``, one after the other, make logits of it."""
        self.first, self.parts, self.last = first, parts, last

    def start(self, rows: int, capacity: int) -> list[DecodeCache]:
        """Memory for ``capacity`` tokens of each of ``rows`` texts. What a row holds before its position 0 is read
        is never looked at, save by a recurrence: see ``forget``."""
        return [part.start(rows, capacity) for part in self.parts]

    def read(self, reading: StepInputs, memory: Sequence[DecodeCache]) -> Float[Tensor, "N V"]:
        """Logits after each of the last tokens read."""
        x = self.first(reading)
        for part, remembered in zip(self.parts, memory, strict=True):
            x.add_(part(x, reading, remembered))
        x = reading.last(x)
        for matrix in self.last:
            x = matrix(x)
        return x


@torch.inference_mode()
def reset_row(memory: Sequence[DecodeCache], row: int) -> None:
    """A new text begins in a row: hidden states are 0 again."""
    for remembered in memory:
        if remembered is not None and remembered.dim() == 2:
            remembered[row] = 0.0


@torch.inference_mode()
def copy_row(memory: Sequence[DecodeCache], source: int, target: int, length: int) -> None:
    """Let row ``target`` hold what row ``source`` holds, of which ``length`` positions have been read."""
    for remembered in memory:
        if remembered is None:
            continue
        if remembered.dim() == 2:
            remembered[target] = remembered[source]
        else:
            remembered[target, :, :, :length] = remembered[source, :, :, :length]
