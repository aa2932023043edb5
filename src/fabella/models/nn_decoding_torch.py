"""A model laid out for telling: one more token of many texts, or a stretch of one text, in as few operations as can be.

The same network as a family's ``Model`` computes, from the same weights, but of blocks that know neither gradients nor
dropout: matrices that read the same vector are one matrix; the scale of a norm is multiplied into the matrix that reads
it; keys, values and hidden states lie where they stay, a row a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Complex64, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn_products_torch import Layout, Product
from fabella.models.nn_reading_torch import Reading

Memory = Tensor | None
"""What one block remembers, a row a text; None where it remembers nothing."""


@runtime_checkable
class Part(Protocol):
    """A step of the stream: what it adds to ``x`` [N D]."""

    def start(self, rows: int, capacity: int) -> Memory: ...

    def __call__(self, x: Tensor, reading: Reading, memory: Any) -> Tensor: ...


@runtime_checkable
class Norm(Protocol):
    """A norm without its scale, which is multiplied into the matrix that reads it."""

    scale: Float[Tensor, " D"] | None

    def __call__(self, x: Tensor) -> Tensor: ...


class RootMeanSquare:
    """x / √(D·(mean(x²) + eps)): three operations; ``scale`` is the rest of RMSNorm."""

    def __init__(self, weight: Float[Tensor, " D"], eps: float) -> None:
        dim = len(weight)
        self.scale: Tensor | None = weight.detach() * dim**0.5
        self._least = weight.detach().new_full((1, 1), (eps * dim) ** 0.5)

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length, self._least)


class LayerNorm:
    """As PyTorch has it, in one operation, scale and offset included."""

    scale: Tensor | None = None

    def __init__(self, of: Any) -> None:
        self._shape, self._weight, self._bias, self._eps = of.normalized_shape, of.weight, of.bias, of.eps

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return torch.layer_norm(x, self._shape, self._weight, self._bias, self._eps)


def joined(layout: Layout, norm: Norm | None, *layers: Any) -> Product:
    """The product with the matrices of several linear layers, one below the other, that read what ``norm`` gives."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = torch.cat([layer.bias.detach() for layer in layers]) if layers[0].bias is not None else None
    return layout(scaled(weight, norm), bias)


def scaled(weight: Float[Tensor, "O D"], norm: Norm | None) -> Float[Tensor, "O D"]:
    """The matrix that reads what ``norm`` gives, with the norm's scale in it."""
    return weight.detach() if norm is None or norm.scale is None else weight.detach() * norm.scale


class AttentionPart:
    """Queries, keys and values by one matrix; positions, where there are any, by one multiplication.

    Two numbers that turn together are one complex number, which is multiplied by e^(i·angle).
    """

    def __init__(
        self,
        of: Any,
        norm: Norm,
        layout: Layout,
        *,
        heads: int,
        kv_heads: int,
        turns: Complex64[Tensor, "S P"] | None = None,
        halves: bool = False,
    ) -> None:
        """``of``: the layers ``query``, ``key``, ``value``, ``output``. ``turns``: e^(i·angle) for each pair.

        ``halves``: dim i of a head turns with dim i + E/2 rather than with its neighbour; the rows of queries and keys
        are put in an order in which they are neighbours, which no product of the two can tell.
        """
        weight, bias = _query_key_value(of, norm)
        self._heads, self._kv_heads = heads, kv_heads
        self._dim = weight.shape[0] // (heads + 2 * kv_heads)
        if halves:
            order = torch.arange(len(weight))
            order[: (heads + kv_heads) * self._dim] = _neighbours(heads + kv_heads, self._dim)
            weight, bias = weight[order], None if bias is None else bias[order]
        self._norm, self._turns = norm, None if turns is None else turns.unsqueeze(1)
        self._matrix, self._output = layout(weight, bias), joined(layout, None, of.output)
        self._like = weight

    def start(self, rows: int, capacity: int) -> Float[Tensor, "R 2 K S E"]:
        """Room for keys and values: zeros, as a value behind the mask must at least be a number."""
        return self._like.new_zeros(rows, 2, self._kv_heads, capacity, self._dim)

    def __call__(
        self, x: Float[Tensor, "N D"], reading: Reading, memory: Float[Tensor, "R 2 K S E"]
    ) -> Float[Tensor, "N D"]:
        rows, turned = len(x), self._heads + self._kv_heads
        found = self._matrix(self._norm(x)).view(rows, -1, self._dim)
        if self._turns is not None:
            pairs = found.narrow(1, 0, turned).view(rows, turned, -1, 2)
            torch.view_as_complex(pairs).mul_(reading.of(self._turns))
        query = found.narrow(1, 0, self._heads)
        new = found.narrow(1, self._heads, 2 * self._kv_heads).view(rows, 2, self._kv_heads, self._dim)
        return self._output(reading.attend(query, new, memory))


def _query_key_value(of: Any, norm: Norm) -> tuple[Tensor, Tensor | None]:
    layers = (of.query, of.key, of.value)
    weight = torch.cat([scaled(layer.weight, norm) for layer in layers])
    return weight, torch.cat([layer.bias.detach() for layer in layers]) if of.query.bias is not None else None


def _neighbours(heads: int, dim: int) -> Int[Tensor, " R"]:
    """For each head, the order 0, E/2, 1, E/2 + 1, …"""
    within = torch.arange(dim).view(2, -1).T.flatten()
    return (torch.arange(heads).unsqueeze(1) * dim + within).flatten()


def turns(cos: Float[Tensor, "S P"], sin: Float[Tensor, "S P"], pairs: int) -> Complex64[Tensor, "S E/2"]:
    """e^(i·angle) of each pair of a head; those beyond the given angles stay: 1."""
    given = torch.complex(cos, sin)
    return torch.cat((given, torch.ones(len(given), pairs - given.shape[1], device=given.device)), dim=1)


class RecurrencePart:
    """MinGRU: gate and candidate by one matrix."""

    def __init__(self, of: Any, norm: Norm, layout: Layout) -> None:
        """``of``: the layers ``gate``, ``candidate``, ``output``."""
        self._norm, self._matrix = norm, joined(layout, norm, of.gate, of.candidate)
        self._output = joined(layout, None, of.output) if hasattr(of.output, "weight") else None
        self._like = of.gate.weight.detach()

    def start(self, rows: int, capacity: int) -> Float[Tensor, "R S"]:
        """Hidden states that have read nothing."""
        return self._like.new_zeros(rows, self._like.shape[0])

    def __call__(self, x: Float[Tensor, "N D"], reading: Reading, memory: Float[Tensor, "R S"]) -> Float[Tensor, "N D"]:
        hidden = reading.recur(self._matrix(self._norm(x)), memory)
        return hidden if self._output is None else self._output(hidden)


@dataclass(frozen=True, slots=True)
class Forgetful:
    """A part that remembers nothing."""

    function: Callable[[Tensor, Reading], Tensor]

    def start(self, rows: int, capacity: int) -> None:
        """Nothing to remember."""

    def __call__(self, x: Tensor, reading: Reading, memory: None) -> Tensor:
        return self.function(x, reading)


def swiglu_part(of: Any, norm: Norm, layout: Layout) -> Part:
    """down(silu(gate x) · up x), gate and up by one matrix."""
    matrix, down = joined(layout, norm, of.gate, of.up), joined(layout, None, of.down)

    def function(x: Tensor, reading: Reading) -> Tensor:
        gate, up = matrix(norm(x)).chunk(2, dim=1)
        return down(functional.silu(gate).mul_(up))

    return Forgetful(function)


def gelu_part(of: Any, norm: Norm, layout: Layout, *, approximate: str = "none") -> Part:
    """down(GELU(up x))."""
    up, down = joined(layout, norm, of.up), joined(layout, None, of.down)
    return Forgetful(lambda x, reading: down(functional.gelu(up(norm(x)), approximate=approximate)))


def root_mean_square(of: Any) -> RootMeanSquare:
    """The norm of an RMSNorm."""
    return RootMeanSquare(of.weight, of.eps)


def tokens_of(embedding: nn.Embedding) -> Callable[[Reading], Tensor]:
    """The stream's beginning: each token's row."""
    table = embedding.weight.detach()
    return lambda reading: functional.embedding(reading.tokens, table)


def head_of(weight: Float[Tensor, "V D"], norm: Norm, layout: Layout) -> Callable[[Tensor], Tensor]:
    """The stream's end: logits of the normed stream."""
    matrix = layout(scaled(weight, norm), None)
    return lambda x: matrix(norm(x))


class Decoder:
    """The whole network. What it remembers is apart from it: several tellings may share one decoder."""

    def __init__(
        self, first: Callable[[Reading], Tensor], parts: Sequence[Part], last: Callable[[Tensor], Tensor]
    ) -> None:
        """``first`` makes the stream [N D], anew for each reading; ``last`` makes logits of it, norm and all."""
        self._first, self._parts, self._last = first, parts, last

    def start(self, rows: int, capacity: int) -> list[Memory]:
        """Memory for ``capacity`` tokens of each of ``rows`` texts. What a row holds before its position 0 is read
        is never looked at, save by a recurrence: see ``forget``."""
        return [part.start(rows, capacity) for part in self._parts]

    def read(self, reading: Reading, memory: Sequence[Memory]) -> Float[Tensor, "N V"]:
        """Logits after each of the last tokens read."""
        x = self._first(reading)
        for part, remembered in zip(self._parts, memory, strict=True):
            x.add_(part(x, reading, remembered))
        return self._last(reading.last(x))


def forget(memory: Sequence[Memory], row: int) -> None:
    """A new text begins in a row: hidden states are 0 again."""
    for remembered in memory:
        if remembered is not None and remembered.dim() == 2:
            remembered[row] = 0.0


def move(memory: Sequence[Memory], source: int, target: int, length: int) -> None:
    """Let row ``target`` hold what row ``source`` holds, of which ``length`` positions have been read."""
    for remembered in memory:
        if remembered is None:
            continue
        if remembered.dim() == 2:
            remembered[target] = remembered[source]
        else:
            remembered[target, :, :, :length] = remembered[source, :, :, :length]
